use std::path::PathBuf;
use std::time::Duration;

use fltport::protocol::mute::Request;
use fltport::{Caller, NtStatus};

use super::*;

/// An operation of which everything is known, unless a test takes it away.
#[derive(Clone)]
struct Known {
    kind: Kind,
    path: Option<PathBuf>,
    users: Option<Ids>,
    program: Option<PathBuf>,
    program_id: Option<FileId>,
    cgroup: Option<PathBuf>,
    filesystem: Option<Filesystem>,
}

impl Subjects for Known {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn own_path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn users(&self) -> Option<Ids> {
        self.users
    }

    fn program(&self) -> Option<&Path> {
        self.program.as_deref()
    }

    fn program_id(&self) -> Option<FileId> {
        self.program_id
    }

    fn cgroup(&self) -> Option<&Path> {
        self.cgroup.as_deref()
    }

    fn filesystem(&self) -> Option<Filesystem> {
        self.filesystem
    }
}

const PROGRAM: FileId = FileId {
    device: 1,
    inode: 77,
};

const CALLER: Caller = Caller {
    pid: 55,
    uid: 0,
    gid: 0,
};

fn known() -> Known {
    Known {
        kind: Kind::Open,
        path: Some("/srv/cache/a/b".into()),
        users: Some(all(7)),
        program: Some("/usr/bin/make".into()),
        program_id: Some(PROGRAM),
        cgroup: Some("/system.slice/cron.service".into()),
        filesystem: Filesystem::named("tmpfs").ok(),
    }
}

const fn all(id: u32) -> Ids {
    Ids {
        real: id,
        effective: id,
        saved: id,
        filesystem: id,
    }
}

fn rules(rules: &[(Sort, &str)]) -> Mutes {
    // A rule about a group is none where there is no unified hierarchy.
    let rules = rules.iter().map(|(sort, text)| {
        let mut rule = match text.strip_prefix("cgroup=") {
            Some(group) => about(Subject::Cgroup(group.into())),
            None => Rule::said(text).unwrap(),
        };
        if let Subject::Process(_, id) = &mut rule.subject {
            *id = Some(PROGRAM);
        }
        (*sort, rule)
    });
    Mutes::new(rules)
}

const fn about(subject: Subject) -> Rule {
    Rule {
        subject,
        opens: true,
        executions: true,
        expires: None,
    }
}

/// Whether it is asked about.
fn asks(mutes: &Mutes, operation: &Known) -> bool {
    matches!(mutes.judge(operation, true), Judgement::Ask)
}

fn muted_by(text: &str, operation: &Known) -> bool {
    !asks(&rules(&[(Sort::Mute, text)]), operation)
}

fn asked_only_by(text: &str, operation: &Known) -> bool {
    asks(&rules(&[(Sort::Only, text)]), operation)
}

#[test]
fn each_kind_of_rule_matches_what_it_names_and_nothing_that_begins_alike() {
    for (right, wrong) in [
        ("path=/srv/cache/a/b", "path=/srv/cache/a"),
        ("tree=/srv/cache", "tree=/srv/cac"),
        ("tree=/", "tree=/srv/cache2"),
        ("process=/usr/bin/make", "process=/usr/bin/mak"),
        ("user=7", "user=8"),
        ("cgroup=/system.slice", "cgroup=/system"),
        ("fstype=tmpfs", "fstype=ext4"),
    ] {
        assert!(muted_by(right, &known()), "{right}");
        assert!(!muted_by(wrong, &known()), "{wrong}");
        assert!(asked_only_by(right, &known()), "{right}");
        assert!(!asked_only_by(wrong, &known()), "{wrong}");
    }
}

#[test]
fn what_cannot_be_told_is_asked_about_whichever_way_the_rule_works() {
    let nothing = Known {
        path: None,
        users: None,
        program: None,
        program_id: None,
        cgroup: None,
        filesystem: None,
        ..known()
    };
    for text in [
        "path=/srv/cache/a/b",
        "tree=/",
        "process=/usr/bin/make",
        "user=7",
        "cgroup=/",
        "fstype=tmpfs",
    ] {
        assert!(!muted_by(text, &nothing), "{text}");
        assert!(asked_only_by(text, &nothing), "{text}");
    }
}

#[test]
fn a_process_that_is_two_users_is_surely_neither() {
    let mut two = known();
    two.users = Some(Ids {
        effective: 8,
        ..all(7)
    });
    for text in ["user=7", "user=8"] {
        assert!(!muted_by(text, &two) && asked_only_by(text, &two));
    }
    assert!(!asked_only_by("user=9", &two));
}

#[test]
fn a_group_outside_of_what_the_host_sees_is_not_told_apart() {
    for path in ["/../system.slice", "/system.slice (deleted)"] {
        let mut elsewhere = known();
        elsewhere.cgroup = Some(path.into());
        assert!(!muted_by("cgroup=/", &elsewhere), "{path}");
        assert!(asked_only_by("cgroup=/other", &elsewhere), "{path}");
    }
}

#[test]
fn another_file_at_the_path_of_a_program_is_another_program_until_it_was_looked_at() {
    let mutes = rules(&[(Sort::Mute, "process=/usr/bin/make")]);
    let mut other = known();
    other.program_id = Some(FileId {
        inode: 78,
        ..PROGRAM
    });
    assert!(asks(&mutes, &other));
    assert!(mutes.lock().stale, "it is to be looked at");
    // Replaced while it runs: the path is the old file's.
    other.program = Some("/usr/bin/make (deleted)".into());
    assert!(asks(&mutes, &other));
}

#[test]
fn a_rule_for_one_kind_of_operation_leaves_the_other_alone() {
    let exec = Known {
        kind: Kind::Exec,
        ..known()
    };
    let mutes = rules(&[(Sort::Mute, "exec:tree=/srv")]);
    assert!(asks(&mutes, &known()) && !asks(&mutes, &exec));
    let mutes = rules(&[(Sort::Only, "exec:tree=/opt")]);
    assert!(asks(&mutes, &known()) && !asks(&mutes, &exec));
}

#[test]
fn one_of_several_is_enough_and_a_mute_goes_before() {
    let listed = [(Sort::Only, "tree=/opt"), (Sort::Only, "user=7")];
    assert!(asks(&rules(&listed), &known()));
    let muted = [(Sort::Only, "user=7"), (Sort::Mute, "tree=/srv")];
    assert!(!asks(&rules(&muted), &known()));
}

#[test]
fn a_rule_whose_time_is_over_is_none() {
    let mut rule = Rule::said("tree=/srv").unwrap();
    rule.expires = Some(Instant::now());
    let mutes = Mutes::new([(Sort::Mute, rule)]);
    assert!(asks(&mutes, &known()));
    assert_eq!(mutes.list(), json!([]));
}

#[test]
fn hits_are_counted_once_for_each_operation() {
    let mutes = rules(&[(Sort::Mute, "tree=/opt"), (Sort::Mute, "tree=/srv")]);
    mutes.judge(&known(), true);
    mutes.judge(&known(), false);
    mutes.judge(&known(), true);
    let list = mutes.list();
    assert_eq!((&list[0]["hits"], &list[1]["hits"]), (&json!(0), &json!(2)));
    assert_eq!(list[1]["rule"], "tree=/srv");
    assert_eq!(list[1]["origin"], "start");
}

#[test]
fn a_service_has_few_mutes_for_a_short_time_and_takes_back_only_its_own() {
    let mutes = rules(&[(Sort::Mute, "tree=/opt")]);
    let add = |connection, seconds, rule| {
        let request = Request::Add { seconds, rule };
        mutes.request(connection, CALLER, &request.to_bytes())
    };
    let remove = |connection, id| {
        let request = Request::Remove { id };
        mutes.request(connection, CALLER, &request.to_bytes())
    };
    for (seconds, rule) in [
        (0, "tree=/srv"),
        (3_601, "tree=/srv"),
        (60, "tree=relative"),
        (60, "10m:tree=/srv"),
        (60, ""),
    ] {
        assert_eq!(add(1, seconds, rule), Err(NtStatus::INVALID_PARAMETER));
    }
    let id = add(1, 3_600, "tree=/srv").unwrap();
    assert!(!asks(&mutes, &known()));
    for (connection, id) in [(2, id), (1, 1), (1, 99)] {
        assert_eq!(remove(connection, id), Err(NtStatus::NOT_FOUND));
    }
    assert_eq!(remove(1, id), Ok(id));
    assert!(asks(&mutes, &known()));
    for _ in 0..64 {
        add(1, 60, "tree=/srv").unwrap();
    }
    let refused = Err(NtStatus::INSUFFICIENT_RESOURCES);
    assert_eq!(add(1, 60, "tree=/srv"), refused);
    add(2, 60, "tree=/srv").unwrap();
    mutes.disconnected(1);
    assert!(!asks(&mutes, &known()));
    mutes.disconnected(2);
    assert!(asks(&mutes, &known()));
    assert_eq!(mutes.list().as_array().unwrap().len(), 1);
}

#[test]
fn a_service_that_changes_its_mind_faster_than_it_can_be_told_of_is_refused() {
    let mutes = rules(&[]);
    let add = Request::Add {
        seconds: 60,
        rule: "user=7",
    };
    let change = || {
        let id = mutes.request(1, CALLER, &add.to_bytes())?;
        mutes.request(1, CALLER, &Request::Remove { id }.to_bytes())
    };
    let refused = (0..2_000).find_map(|_| change().err());
    assert_eq!(refused, Some(NtStatus::INSUFFICIENT_RESOURCES));
    assert!(mutes.lock().news.len() <= 1_100);
}

#[test]
fn rules_in_the_hundreds_cost_an_operation_microseconds() {
    let texts: Vec<_> = (0..RULES_MAX).map(|n| format!("tree=/opt/{n}")).collect();
    let rules: Vec<_> = texts.iter().map(|text| Rule::said(text).unwrap()).collect();
    let mutes = Mutes::new(rules.into_iter().map(|rule| (Sort::Mute, rule)));
    let start = Instant::now();
    for _ in 0..100 {
        assert!(asks(&mutes, &known()));
    }
    // Generous: a debug build on a busy machine.
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}
