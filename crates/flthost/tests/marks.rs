//! Targets and their trees of marks, against the kernel that runs here. Needs root.

mod common;

use std::collections::HashSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{
    Place, asks, descriptors, open, opener, outcome, overlay, question, readable, run, text,
};
use flthost::fanotify::{Class, Group, MarkError, Response, Watch};
use flthost::marks::{MarkedTree, Target, TargetError, TargetKind, TreeError, follow, mark_tree};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn a_target_says_how_it_is_guarded() {
    let Some(place) = Place::new() else { return };
    let (dir, bind, file) = (place.dir("dir"), place.dir("bind"), place.file("file"));
    assert!(run("mount", ["--bind", text(&dir), text(&bind)]));
    let kind = |path: &Path| Target::open(path).unwrap().kind();
    assert_eq!(kind(&place.root), TargetKind::Filesystem);
    assert_eq!(kind(&dir), TargetKind::Directory);
    assert_eq!(kind(&bind), TargetKind::Directory); // not the whole filesystem behind it
    let failure = |path: &Path| Target::open(path).unwrap_err();
    assert!(matches!(failure(&file), TargetError::NotDirectory(_)));
    assert!(matches!(
        failure(&place.root.join("none")),
        TargetError::NotFound(_)
    ));
    symlink(&dir, place.root.join("link")).unwrap();
    let target = Target::open(place.root.join("link")).unwrap();
    assert_eq!(target.path(), fs::canonicalize(&dir).unwrap());
    assert_eq!(target.device(), fs::metadata(&dir).unwrap().dev());
}

#[test]
fn a_mount_point_is_marked_as_a_whole() {
    let Some(place) = Place::new() else { return };
    let file = place.file("a/b/file");
    let guard = Guard::new(&place.root);
    assert_eq!(guard.marked, MarkedTree::default());
    assert!(asks(&guard.group, &file));
}

#[test]
fn a_tree_is_marked_and_nothing_outside_of_it() {
    let Some(place) = Place::new() else { return };
    let inside = [place.file("tree/file"), place.file("tree/a/b/file")];
    let outside = [
        place.file("sibling/file"),
        place.file("file"),
        place.file("tree2/file"),
    ];
    symlink(place.root.join("sibling"), place.root.join("tree/link")).unwrap();
    let mounted = place.dir("tree/mounted");
    assert!(run("mount", ["-t", "tmpfs", "none", text(&mounted)]));
    let mounted = place.file("tree/mounted/file");
    let before = descriptors();
    let guard = Guard::new(&place.root.join("tree"));
    assert_eq!(
        (guard.marked.directories, guard.marked.mount_points),
        (3, 1)
    );
    assert_eq!(descriptors(), before + 3); // group, watch, target
    assert!(inside.iter().all(|file| asks(&guard.group, file)));
    assert!(!outside.iter().any(|file| asks(&guard.group, file)));
    assert!(!asks(&guard.group, &mounted));
    let link = place.root.join("tree/link/file");
    assert!(!asks(&guard.group, &link));
}

#[test]
fn a_new_directory_is_covered_once_it_was_followed() {
    let Some(place) = Place::new() else { return };
    place.file("tree/file");
    let guard = Guard::new(&place.root.join("tree"));
    let files = [place.file("tree/a/file"), place.file("tree/a/b/c/file")];
    assert!(!asks(&guard.group, &files[1]));
    assert!(guard.follow().directories >= 3);
    assert!(files.iter().all(|file| asks(&guard.group, file)));
    fs::remove_dir_all(place.root.join("tree/a")).unwrap();
    place.dir("tree/gone");
    fs::remove_dir(place.root.join("tree/gone")).unwrap();
    assert_eq!(guard.follow(), MarkedTree::default()); // vanished, and no error
    assert!(!readable(&guard.watch, 50));
}

#[test]
fn a_tree_that_is_moved_in_is_covered() {
    let Some(place) = Place::new() else { return };
    place.file("tree/file");
    place.file("elsewhere/a/b/file");
    let guard = Guard::new(&place.root.join("tree"));
    fs::rename(place.root.join("elsewhere"), place.root.join("tree/moved")).unwrap();
    assert_eq!(guard.follow().directories, 3);
    assert!(asks(&guard.group, &place.root.join("tree/moved/a/b/file")));
    symlink("/", place.root.join("tree/link")).unwrap();
    assert_eq!(guard.follow(), MarkedTree::default());
}

#[test]
fn every_group_gets_the_marks() {
    let Some(place) = Place::new() else { return };
    let file = place.file("tree/a/file");
    let guard = Guard::new(&place.root.join("tree"));
    let second = Arc::new(Group::new(Class::PreContent).unwrap());
    mark_tree(&[&guard.group, &second], &guard.watch, &guard.target).unwrap();
    let child = opener(&file);
    question(&second).1.answer(Response::Allow).result.unwrap();
    question(&guard.group)
        .1
        .answer(Response::Allow)
        .result
        .unwrap();
    outcome(child).unwrap();
}

#[test]
fn a_tree_deeper_than_a_path_is_covered() {
    let Some(place) = Place::new() else { return };
    let depth = 3000;
    let mut dir = OwnedFd::from(open(&place.dir("tree")));
    for _ in 0..depth {
        let name = c"level";
        rustix::fs::mkdirat(&dir, name, rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        dir = rustix::fs::openat(&dir, name, flags, rustix::fs::Mode::empty()).unwrap();
    }
    let guard = Guard::new(&place.root.join("tree"));
    assert_eq!(guard.marked.directories, depth + 1);
}

#[test]
fn a_directory_that_cannot_be_opened_is_named() {
    let Some(place) = Place::new() else { return };
    place.file("tree/a/file");
    let guard = Guard::new(&place.root.join("tree"));
    let moved = place.dir("tree/b");
    let limit = getrlimit(Resource::Nofile);
    // Enough for the parent, which is opened by its handle, but not for the directory itself.
    let next = u64::try_from(open(&moved).as_raw_fd()).unwrap() + 1;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(next),
            ..limit
        },
    )
    .unwrap();
    let error = follow(&[&guard.group], &guard.watch, &guard.target).unwrap_err();
    setrlimit(Resource::Nofile, limit).unwrap();
    let TreeError::Open { path, source } = error else {
        panic!("{error}")
    };
    // The path is looked up through /proc, which takes no descriptor.
    assert_eq!(path, fs::canonicalize(moved).unwrap());
    assert_eq!(Errno::from_io_error(&source), Some(Errno::MFILE));
}

#[test]
fn directories_made_while_their_parent_is_being_marked_are_covered() {
    let Some(place) = Place::new() else { return };
    let tree = place.dir("tree");
    let guard = Guard::new(&tree);
    let rounds = 4000;
    thread::scope(|scope| {
        let maker = scope.spawn(|| {
            for round in 0..rounds {
                let parent = tree.join(round.to_string());
                fs::create_dir(&parent).unwrap();
                // From "before it was seen" to "after it was marked", in small steps.
                for _ in 0..round % 400 * 10 {
                    std::hint::spin_loop();
                }
                fs::create_dir(parent.join("child")).unwrap();
            }
        });
        while !maker.is_finished() {
            guard.follow();
        }
    });
    while readable(&guard.watch, 0) {
        guard.follow();
    }
    assert_eq!(assert_all_marked(&guard, &tree), 2 * rounds + 1);
}

#[test]
fn a_storm_of_new_and_moved_directories_leaves_no_hole() {
    let Some(place) = Place::new() else { return };
    let (tree, other) = (place.dir("tree"), place.dir("other"));
    let stop = AtomicBool::new(false);
    let guard = thread::scope(|scope| {
        scope.spawn(|| storm(&tree, &other, &stop));
        let guard = Guard::new(&tree);
        for _ in 0..200 {
            readable(&guard.watch, 10);
            guard.follow();
        }
        stop.store(true, Ordering::Relaxed);
        guard
    });
    while readable(&guard.watch, 0) {
        guard.follow();
    }
    let directories = assert_all_marked(&guard, &tree);
    assert!(directories > 100, "{directories}");
}

#[test]
fn a_filesystem_without_handles_is_rescanned() {
    let Some(place) = Place::new() else { return };
    let [lower, upper, work, all] = ["lower", "upper", "work", "all"].map(|name| place.dir(name));
    if !overlay(&lower, &upper, &work, &all) {
        return;
    }
    place.file("all/tree/file");
    let tree = place.root.join("all/tree");
    // Before Linux 6.6 such a filesystem can be guarded as a whole only.
    let watched = Watch::new().unwrap().watch_directory(open(&tree).as_fd());
    if matches!(watched, Err(MarkError::NoHandles)) {
        return println!("skipped: this kernel names nothing in events of an overlay");
    }
    let guard = Guard::new(&tree);
    let file = place.file("all/tree/a/b/file");
    let marked = guard.follow();
    assert_eq!((marked.directories, marked.rescanned), (3, true));
    assert!(asks(&guard.group, &file));
}

/// Fails unless every directory of the tree has a mark; says how many there are.
fn assert_all_marked(guard: &Guard, tree: &Path) -> u64 {
    let marked = marked_inodes(&guard.group);
    let mut pending = vec![tree.to_path_buf()];
    let mut directories = 0;
    while let Some(dir) = pending.pop() {
        directories += 1;
        assert!(
            marked.contains(&fs::metadata(&dir).unwrap().ino()),
            "{}",
            dir.display()
        );
        let entries = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        pending.extend(entries.filter(|path| path.is_dir()));
    }
    directories
}

/// A guarded target, with everything that belongs to it.
struct Guard {
    group: Arc<Group>,
    watch: Watch,
    target: Target,
    marked: MarkedTree,
}

impl Guard {
    fn new(path: &Path) -> Self {
        let group = Arc::new(Group::new(Class::Content).unwrap());
        let watch = Watch::new().unwrap();
        let target = Target::open(path).unwrap();
        let marked = mark_tree(&[&group], &watch, &target).unwrap();
        Self {
            group,
            watch,
            target,
            marked,
        }
    }

    fn follow(&self) -> MarkedTree {
        follow(&[&self.group], &self.watch, &self.target).unwrap()
    }
}

/// Makes, moves within, moves in, and removes directories until told to stop.
fn storm(tree: &Path, other: &Path, stop: &AtomicBool) {
    let mut round = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let made = tree.join(format!("{}/{round}/a/b", round % 7));
        fs::create_dir_all(&made).unwrap();
        let outside = other.join(round.to_string());
        fs::create_dir_all(outside.join("x/y")).unwrap();
        fs::rename(outside, made.join("in")).unwrap();
        if round.is_multiple_of(3) {
            let from = tree.join(format!("{}/{round}", round % 7));
            let to = tree.join(format!("{}", (round + 1) % 7));
            fs::create_dir_all(&to).unwrap();
            fs::rename(from, to.join(format!("{round}"))).unwrap();
        }
        if round.is_multiple_of(50) {
            fs::remove_dir_all(tree.join(format!("{}", round % 7))).unwrap();
        }
        thread::sleep(std::time::Duration::from_micros(300));
    }
}

/// The inodes with a mark of this group, as the kernel lists them.
fn marked_inodes(group: &Group) -> HashSet<u64> {
    let path = format!("/proc/self/fdinfo/{}", group.as_fd().as_raw_fd());
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("fanotify ino:")?.split(' ').next())
        .map(|ino| u64::from_str_radix(ino, 16).unwrap())
        .collect()
}
