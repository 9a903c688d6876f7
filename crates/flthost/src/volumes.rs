//! Filesystems that are mounted below a guarded directory, now or later: each is guarded by a pair of groups of its own.
//!
//! A thread of its own waits for changes of the mount table and compares it with what is guarded. It holds no descriptor on
//! what it guards, so that whoever wants to can unmount it. What happens between a mount and its marks goes unasked, as in
//! new directories ([`crate::marks`]); only mounts of the host's own mount namespace are seen.
//!
//! Next rooms: [`crate::mounts`] reads the table, [`crate::volume_scope`] says what is to be
//! guarded, [`crate::volume_marks`] opens and marks one mount.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::Value;

use crate::config::Config;
use crate::events::{Event, Events};
use crate::fanotify::Notifier;
use crate::mounts::{Mount, MountList, behind_remote};
use crate::notice::Roots;
use crate::pair::Pair;
use crate::say::say;
use crate::start::Held;
use crate::supervisor_memory::Journal;
use crate::threads::fail;
use crate::volume::{Guard, Volume};
use crate::volume_marks::{Failure, mark};
use crate::volume_scope::Scope;

/// Guards filesystems that are mounted below guarded directories.
pub(crate) struct Volumes {
    pairs: Vec<Arc<Pair>>,
    first_spare: usize,
    journal: Journal,
    scope: Scope,
    helpers: Helpers,
    state: Mutex<State>,
    /// As told to whoever asks: not behind the lock above, which may be held while a filesystem is opened.
    rows: Mutex<Vec<Value>>,
}

/// What the process around it does for a volume.
pub(crate) struct Helpers {
    /// Sees to it that the pair at this place is read.
    pub(crate) start_readers: Box<dyn Fn(usize) -> Result<(), String> + Send + Sync>,
    /// Who is told.
    pub(crate) events: Option<Arc<Events>>,
    /// Tells of volumes afterwards, too, if some filter wants that.
    pub(crate) notifier: Option<Arc<Notifier>>,
    /// Where it finds them.
    pub(crate) roots: Arc<Roots>,
}

#[derive(Default)]
struct State {
    volumes: Vec<Volume>,
    /// Pairs that an earlier worker has used, by mount.
    inherited: HashMap<u64, usize>,
    /// Whether listeners are told.
    announced: bool,
    /// What they are told when all is done that can be done.
    news: Vec<Event>,
}

/// How a volume is to be guarded.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// The pair.
    place: usize,
    /// By a mark on its whole filesystem.
    whole: bool,
    link: Link,
}

/// What the pair of a plan has to do with its volume so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Nothing.
    Spare,
    /// An earlier worker has marked it.
    Inherited,
    /// This worker has.
    Marked,
}

impl Volumes {
    /// Guards nothing yet.
    pub(crate) fn new(held: &Held, config: &Config, helpers: Helpers) -> Self {
        let spares = held.first_spare..held.pairs.len();
        let inherited =
            spares.filter_map(|place| Some((held.journal.mount_of_spare(place)?, place)));
        Self {
            pairs: held.pairs.clone(),
            first_spare: held.first_spare,
            journal: held.journal,
            scope: Scope::of(held, config),
            helpers,
            state: Mutex::new(State {
                inherited: inherited.collect(),
                ..State::default()
            }),
            rows: Mutex::default(),
        }
    }

    /// Guards what is mounted, and goes on doing so for as long as the process lives. Comes back when the first look is
    /// over; filesystems behind servers and daemons may take longer.
    ///
    /// # Errors
    /// The system's, when the mount table cannot be read or no thread be started.
    pub(crate) fn start(self: &Arc<Self>) -> Result<(), String> {
        let text = |error| format!("cannot see what is mounted: {error}");
        let mut list = MountList::open().map_err(text)?;
        self.look(&list.read().map_err(text)?);
        let volumes = Arc::clone(self);
        let body = move || {
            loop {
                if let Err(error) = list.wait() {
                    fail(text(error));
                }
                match list.read() {
                    Ok(mounts) => volumes.look(&mounts),
                    Err(error) => fail(text(error)),
                }
            }
        };
        let thread = thread::Builder::new()
            .name("volumes".to_owned())
            .spawn(body);
        thread.map(drop).map_err(text)
    }

    /// Takes back the marks of an older host, which guarded what is mounted where this one does not; how many pairs had some.
    pub(crate) fn give_up_inherited(&self) -> usize {
        let inherited = std::mem::take(&mut self.lock().inherited);
        for place in inherited.values() {
            self.release(*place);
        }
        inherited.len()
    }

    /// Tells listeners what is guarded and what is not, and from now on what changes.
    pub(crate) fn announce(&self) {
        let mut state = self.lock();
        state.announced = true;
        let State { volumes, news, .. } = &mut *state;
        news.extend(volumes.iter().filter_map(Volume::news));
        self.publish(&mut state);
    }

    /// What is guarded and what is not, for the command line.
    pub(crate) fn list(&self) -> Vec<Value> {
        let rows = self.rows.lock();
        rows.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Compares what is mounted with what is guarded.
    fn look(self: &Arc<Self>, mounts: &[Mount]) {
        let mut state = self.lock();
        let wanted: Vec<&Mount> = mounts
            .iter()
            .filter(|mount| self.scope.wants(mount))
            .collect();
        self.forget_vanished(&mut state, &wanted);
        self.take_down(&mut state, &wanted);
        // Those first that an earlier worker has guarded: others may share their marks.
        let inherited =
            |state: &State, volume: &Volume| state.inherited.contains_key(&volume.mount.id);
        let (first, then): (Vec<_>, Vec<_>) =
            (0..state.volumes.len()).partition(|place| inherited(&state, &state.volumes[*place]));
        let behind = behind_remote(mounts);
        for place in first.into_iter().chain(then) {
            let outside = self
                .scope
                .is_outside_too(mounts, state.volumes[place].mount.device);
            let slow = behind.get(&state.volumes[place].mount.id) == Some(&true);
            self.see_to(&mut state, place, outside, slow);
        }
        self.publish(&mut state);
    }

    /// Takes down what is new, and where what is known is now.
    fn take_down(&self, state: &mut State, wanted: &[&Mount]) {
        let State { volumes, news, .. } = state;
        for mount in wanted {
            let same = |volume: &&mut Volume| volume.mount.is_same(mount);
            let Some(volume) = volumes.iter_mut().find(same) else {
                volumes.push(Volume::new((*mount).clone()));
                continue;
            };
            volume.stale |= volume.busy;
            if volume.mount.point != mount.point {
                self.helpers.roots.remove(&volume.mount.point);
                news.extend(volume.farewell());
                volume.mount = (*mount).clone();
                news.extend(volume.news());
            }
        }
    }

    fn forget_vanished(&self, state: &mut State, wanted: &[&Mount]) {
        let is_there = |volume: &Volume| wanted.iter().any(|mount| mount.is_same(&volume.mount));
        let (there, vanished): (Vec<_>, Vec<_>) = std::mem::take(&mut state.volumes)
            .into_iter()
            .partition(is_there);
        state.volumes = there;
        for mut volume in vanished {
            if volume.busy {
                // Its thread looks again when it comes back.
                volume.stale = true;
                state.volumes.push(volume);
                continue;
            }
            if let Guard::Own { place, whole } = volume.guard {
                let heir = state.volumes.iter_mut().find(|other| {
                    whole
                        && other.guard == Guard::Shared
                        && other.mount.device == volume.mount.device
                });
                match heir {
                    // The mark is the filesystem's, and another mount of it goes on.
                    Some(heir) => {
                        heir.guard = Guard::Own { place, whole };
                        self.journal.give_spare(place, heir.mount.id);
                    }
                    None => self.release(place),
                }
            }
            self.helpers.roots.remove(&volume.mount.point);
            state.news.extend(volume.farewell());
        }
        let gone = |id: &u64| !wanted.iter().any(|mount| mount.id == *id);
        let lost: Vec<u64> = state.inherited.keys().copied().filter(gone).collect();
        for place in lost.iter().filter_map(|id| state.inherited.remove(id)) {
            self.release(place);
        }
    }

    /// Guards a volume, or guards it again: another filesystem may have come to the place of the first under its number.
    fn see_to(self: &Arc<Self>, state: &mut State, at: usize, outside: bool, slow: bool) {
        let Some(volume) = state.volumes.get(at) else {
            return;
        };
        let mount = volume.mount.clone();
        if volume.busy || matches!(volume.guard, Guard::Refused { again: false, .. }) {
            return;
        }
        let marked = matches!(volume.guard, Guard::Own { .. });
        if !marked {
            if let Some(reason) = self.scope.reason_against(&mount) {
                // An older host or worker may have guarded it.
                if let Some(place) = state.inherited.remove(&mount.id) {
                    self.release(place);
                }
                let again = false;
                return self.settle(state, at, Guard::Refused { reason, again });
            }
            if self.is_covered(state, &mount) {
                if let Some(place) = state.inherited.remove(&mount.id) {
                    self.release(place);
                }
                return self.settle(state, at, Guard::Shared);
            }
        }
        let busy = state.volumes.iter().filter(|volume| volume.busy).count();
        if slow && busy >= BUSY_MAX {
            if marked {
                return;
            }
            let (reason, again) = ("too many filesystems do not answer".to_owned(), true);
            return self.settle(state, at, Guard::Refused { reason, again });
        }
        let plan = match self.plan(state, at, outside) {
            Ok(plan) => plan,
            Err(reason) => {
                let again = true;
                return self.settle(state, at, Guard::Refused { reason, again });
            }
        };
        if !slow {
            let guard = self.guard(&mount, plan);
            return self.settle(state, at, guard);
        }
        // Whoever opens it may wait for ever; others must not wait behind him.
        let (volumes, theirs) = (Arc::clone(self), mount);
        let body = move || {
            let guard = volumes.guard(&theirs, plan);
            volumes.opened(&theirs, guard);
        };
        let thread = thread::Builder::new().name("volume".to_owned()).spawn(body);
        match thread {
            Ok(_) => {
                if let Some(volume) = state.volumes.get_mut(at) {
                    volume.busy = true;
                }
            }
            // Its marks are there; they are looked after when something changes the next time.
            Err(_) if marked => {}
            Err(error) => {
                self.release(plan.place);
                let (reason, again) = (format!("no thread to open it: {error}"), true);
                self.settle(state, at, Guard::Refused { reason, again });
            }
        }
    }

    /// Whether a mark on a whole filesystem covers this mount of it.
    fn is_covered(&self, state: &State, mount: &Mount) -> bool {
        let covers = |volume: &Volume| {
            volume.mount.device == mount.device
                && matches!(volume.guard, Guard::Own { whole: true, .. })
        };
        self.scope.covers(mount) || state.volumes.iter().any(covers)
    }

    /// How a volume is to be guarded: by the pair that it has, by one that an earlier worker has given it, or by a spare one.
    fn plan(&self, state: &mut State, at: usize, outside: bool) -> Result<Plan, String> {
        let volume = state.volumes.get(at).ok_or("it is gone")?;
        let mount = &volume.mount;
        if let Guard::Own { place, whole } = volume.guard {
            let link = Link::Marked;
            return Ok(Plan { place, whole, link });
        }
        let whole = mount.root.as_os_str() == "/" && !outside;
        if let Some(place) = state.inherited.remove(&mount.id) {
            let link = Link::Inherited;
            return Ok(Plan { place, whole, link });
        }
        let spares = self.first_spare..self.pairs.len();
        let most = spares.len();
        let place = self.journal.take_spare(spares, mount.id).ok_or_else(|| {
            format!("there is room for {most} filesystems that were not guarded from the start, and no more")
        })?;
        let link = Link::Spare;
        Ok(Plan { place, whole, link })
    }

    /// Opens a volume and marks it. May wait for its filesystem.
    fn guard(&self, mount: &Mount, plan: Plan) -> Guard {
        let Plan { place, whole, link } = plan;
        if let Some(pair) = self.pairs.get(place) {
            pair.set_remote(!mount.is_local());
        }
        let readers = (self.helpers.start_readers)(place);
        let is_read = readers.is_ok();
        let marked = match readers {
            Ok(()) => self.mark(mount, plan),
            Err(reason) => {
                let again = true;
                Err(Failure::Refused { reason, again })
            }
        };
        let Err(failure) = marked else {
            return Guard::Own { place, whole };
        };
        let passes = matches!(
            failure,
            Failure::Unreached | Failure::Refused { again: true, .. }
        );
        // Where its marks are there, all that failed is to set them again.
        let stays = match link {
            Link::Marked => true,
            Link::Inherited => is_read && passes,
            Link::Spare => false,
        };
        if stays {
            return Guard::Own { place, whole };
        }
        self.release(place);
        match failure {
            Failure::Unreached => Guard::Unreached,
            Failure::Refused { reason, again } => Guard::Refused { reason, again },
        }
    }

    fn mark(&self, mount: &Mount, plan: Plan) -> Result<(), Failure> {
        let gone = || Failure::Refused {
            reason: "there is no such pair".to_owned(),
            again: false,
        };
        let pair = self.pairs.get(plan.place).ok_or_else(gone)?;
        let dir = mark(mount, pair, plan.whole)?;
        if let Some(notifier) = &self.helpers.notifier {
            // A mark on a mount cannot tell of names, only one on a filesystem can.
            if plan.whole {
                notifier.mark_filesystem(dir.as_fd()).ok();
            } else if plan.link != Link::Marked {
                notifier.miss();
            }
            self.helpers.roots.add(dir, &mount.point);
        }
        Ok(())
    }

    /// A thread has opened a volume, or failed to.
    fn opened(self: &Arc<Self>, mount: &Mount, guard: Guard) {
        let mut state = self.lock();
        let same = |volume: &Volume| volume.mount.is_same(mount);
        let Some(at) = state.volumes.iter().position(same) else {
            return;
        };
        let volume = state.volumes.get_mut(at);
        let stale = volume.is_some_and(|volume| {
            volume.busy = false;
            std::mem::take(&mut volume.stale)
        });
        self.settle(&mut state, at, guard);
        self.publish(&mut state);
        drop(state);
        if stale {
            // If it cannot be read now, the next change of it is soon enough.
            let mounts = MountList::open().and_then(|mut list| list.read());
            mounts.map(|mounts| self.look(&mounts)).ok();
        }
    }

    /// Takes down what has become of a volume, and says what is new.
    fn settle(&self, state: &mut State, at: usize, guard: Guard) {
        let Some(volume) = state.volumes.get_mut(at) else {
            return;
        };
        if volume.guard == guard {
            return;
        }
        if let Guard::Refused { reason, .. } = &guard {
            say(format_args!(
                "{} is NOT guarded: {reason}",
                volume.mount.point.display()
            ));
        }
        volume.guard = guard;
        state.news.extend(volume.news());
    }

    /// A pair guards nothing any more. It goes on being read: what has come by it is still answered.
    fn release(&self, place: usize) {
        if let Some(pair) = self.pairs.get(place) {
            pair.give_up();
            // Triage first: what has not come there is not sent on to where it would not be seen.
            for group in [&pair.triage, &pair.questions] {
                if let Err(error) = group.unmark_all() {
                    say(format_args!("marks of a vanished filesystem stay: {error}"));
                }
            }
            pair.forget_kept_out();
        }
        self.journal.free_spare(place);
    }

    /// Writes down how things are, then tells what is new: whoever is told finds it written down.
    fn publish(&self, state: &mut State) {
        let rows = state.volumes.iter().filter_map(Volume::row).collect();
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner) = rows;
        let news = std::mem::take(&mut state.news);
        // Nobody has been told yet that the host guards; then all of it is told.
        let events = self.helpers.events.as_ref().filter(|_| state.announced);
        if let Some(events) = events {
            news.iter().for_each(|event| events.tell(event));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Volumes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}

/// Filesystems that may keep a thread each waiting.
const BUSY_MAX: usize = 16;
