//! What a worker is made of: every part once, put together, before anything is read, marked or listened to.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock};

use crate::cache::Cache;
use crate::config::Config;
use crate::control::Control;
use crate::decision::Decider;
use crate::events::Events;
use crate::exempt::Exempt;
use crate::explain::Watched;
use crate::filters::{Cached, Mute, Trace};
use crate::halt::Halt;
use crate::kernel::Kernel;
use crate::mutes::Mutes;
use crate::names::Names;
use crate::notice::Notices;
use crate::pulse::Pulse;
use crate::reader::{ReaderThreads, Readers};
use crate::services::Services;
use crate::stack::Stack;
use crate::start::Held;
use crate::threads::{no_thread, spawn};

/// The parts of a worker.
pub(crate) struct Parts {
    pub(crate) cache: Arc<Cache>,
    pub(crate) events: Arc<Events>,
    pub(crate) decider: Arc<Decider>,
    pub(crate) exempt: Arc<Exempt>,
    pub(crate) services: Arc<Services>,
    pub(crate) mutes: Arc<Mutes>,
    pub(crate) stack: Arc<Stack>,
    pub(crate) notices: Arc<Notices>,
    pub(crate) control: Arc<Control>,
    pub(crate) pulse: Arc<Pulse>,
}

impl Parts {
    /// For what this host holds. `missing` is what this kernel cannot do, in words; `supervisor` is the process that started this one.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn new(
        config: &Config,
        held: &Held,
        kernel: Kernel,
        missing: &[String],
        supervisor: u32,
    ) -> Result<Self, String> {
        let cache = Arc::new(Cache::new(kernel.cache_mode(config), held.pairs.clone()));
        let events = Arc::new(Events::default());
        let decider = Arc::new(Decider::new(
            config.policies,
            config.monitor,
            kernel.errnos,
            Arc::clone(&cache),
            events.heard(),
        ));
        let remote = held.pairs.iter().any(|pair| pair.slow);
        let services = Services::new(config, &cache, remote).map_err(|error| no_thread(&error))?;
        let services = Arc::new(services);
        let trace = Arc::new(Trace::default());
        let mutes = Arc::new(Mutes::new(config.mutes.iter().cloned()));
        let mut filters = config.filters.clone();
        filters.extend([
            Arc::clone(&trace) as _,
            Arc::new(Mute::new(Arc::clone(&mutes))) as _,
            Arc::new(Cached::new(Arc::clone(&cache), config.cached_altitude())) as _,
        ]);
        filters.extend(services.filters(config));
        let stack = Arc::new(Stack::new(filters));
        let notices = Arc::new(Notices::default());
        let control = Arc::new(Control {
            config: config.clone(),
            missing: missing.to_vec(),
            decider: Arc::clone(&decider),
            stack: Arc::clone(&stack),
            services: Arc::clone(&services),
            trace,
            supervisor: AtomicU32::new(supervisor),
            volumes: OnceLock::new(),
            notifier: held.notifier.clone(),
            notices: Arc::clone(&notices),
            mutes: Arc::clone(&mutes),
            watched: held.guarded.iter().map(Watched::of).collect(),
            guards: Mutex::default(),
            ports: Mutex::default(),
        });
        let pulse = Arc::new(Pulse::new());
        stack.watch(Arc::clone(&pulse));
        services.watch(&pulse);
        Ok(Self {
            cache,
            events,
            decider,
            exempt: Arc::new(Exempt::new()),
            services,
            mutes,
            stack,
            notices,
            control,
            pulse,
        })
    }

    /// Starts the pulse, which looks after every lock that answers need.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn start_pulse(&self, held: &Held) -> Result<(), String> {
        let (pulse, journal) = (Arc::clone(&self.pulse), held.journal);
        let (decider, cache) = (Arc::clone(&self.decider), Arc::clone(&self.cache));
        let (services, mutes) = (Arc::clone(&self.services), Arc::clone(&self.mutes));
        let pairs = held.pairs.clone();
        spawn("pulse", move || {
            pulse.beat(journal, || {
                decider.touch();
                cache.touch();
                services.touch();
                mutes.touch();
                pairs.iter().for_each(|pair| pair.questions.answers.touch());
            })
        })
    }

    /// What the threads that read share.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn readers(&self, config: &Config, held: &Held) -> Result<Arc<Readers>, String> {
        let room = held.descriptors.saturating_sub(held.reserved());
        Ok(Arc::new(Readers {
            decider: Arc::clone(&self.decider),
            stack: Arc::clone(&self.stack),
            exempt: Arc::clone(&self.exempt),
            cache: Arc::clone(&self.cache),
            next_id: AtomicU64::new(1),
            room: usize::try_from(room).unwrap_or(usize::MAX),
            events: Arc::clone(&self.events),
            names: Names::start().map_err(|error| no_thread(&error))?,
            mounts: Arc::default(),
            journal: held.journal,
            defaults: config.crash_defaults(),
            halt: Halt::new().map_err(|error| format!("cannot make a pipe: {error}"))?,
            running: AtomicUsize::new(0),
        }))
    }

    /// Starts what looks after rules and tells of decisions, and the threads that read what is guarded so far.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn start_reading(
        &self,
        held: &Held,
        readers: &Arc<Readers>,
    ) -> Result<ReaderThreads, String> {
        let (mutes, events) = (Arc::clone(&self.mutes), Arc::clone(&self.events));
        spawn("mutes", move || mutes.keep(&events))?;
        let (events, decider) = (Arc::clone(&self.events), Arc::clone(&self.decider));
        spawn("log", move || events.log(&decider))?;
        let threads = ReaderThreads {
            readers: Arc::clone(readers),
            pairs: held.pairs.clone(),
            pulse: Arc::clone(&self.pulse),
            read: Mutex::default(),
        };
        let mut used = (0..held.pairs.len()).filter(|place| held.is_used(*place));
        used.try_for_each(|place| threads.start(place))?;
        Ok(threads)
    }

    /// Starts to tell filters what has happened, if some want to know. `again`: an earlier worker did so before.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn start_notices(&self, held: &Held, again: bool) -> Result<(), String> {
        let Some(notifier) = held.notifier.clone() else {
            return Ok(());
        };
        for guarded in &held.guarded {
            let dir = guarded.target.as_fd().try_clone_to_owned();
            let dir = dir.map_err(|error| format!("cannot copy a descriptor: {error}"))?;
            self.notices.roots.hold(dir);
        }
        let (notices, stack) = (Arc::clone(&self.notices), Arc::clone(&self.stack));
        spawn("notices", move || {
            notices.keep_telling(&notifier, &stack, again)
        })
    }
}
