//! The filter that asks services: at one altitude, those of one port or of several side by side.

use crate::filter::{Altitude, Filter, Pre};
use crate::filters::ask::{Agree, Ask};
use crate::operation::Operation;

/// Where the services of one altitude are asked.
#[derive(Debug)]
pub struct Panel {
    name: String,
    altitude: Altitude,
    desks: Vec<Desk>,
    agree: Agree,
    /// Panels that an operation comes to one after the other, from this one on.
    turns: u32,
}

/// Where the services of one name are asked, local filesystems and those of servers and daemons apart: a service that
/// hangs with a file of those is asked about none of the others.
#[derive(Clone, Debug)]
pub struct Desk {
    /// About files that nobody has to wait for.
    pub local: Ask,
    /// About the others; also `local` where there is none.
    pub remote: Option<Ask>,
    /// `remote` has services of its own, or will; otherwise `local` is asked while nobody is connected there.
    pub remote_is_kept: bool,
}

impl Panel {
    /// Asks these, each about all operations, as one of so many panels that follow one another.
    #[must_use]
    pub const fn new(
        name: String,
        altitude: Altitude,
        desks: Vec<Desk>,
        agree: Agree,
        turns: u32,
    ) -> Self {
        Self {
            name,
            altitude,
            desks,
            agree,
            turns,
        }
    }
}

impl Desk {
    /// Where to ask about an operation, as things are now.
    fn choose(&self, operation: &Operation) -> &Ask {
        let is_served = |remote: &&Ask| self.remote_is_kept || remote.is_served();
        let remote = self.remote.as_ref().filter(|_| operation.is_remote());
        remote.filter(is_served).unwrap_or(&self.local)
    }
}

impl Filter for Panel {
    fn name(&self) -> &str {
        &self.name
    }

    fn altitude(&self) -> Altitude {
        self.altitude
    }

    fn may_wait(&self) -> bool {
        true
    }

    fn may_be_skipped(&self) -> bool {
        // Each answer says whether it may.
        true
    }

    fn pre_operation(&self, operation: &Operation) -> Pre {
        let turns = self.turns;
        if let [desk] = &self.desks[..] {
            let ask = desk.choose(operation).clone();
            return Pre::Pend(Box::new(move |pended| ask.decide(pended, turns)));
        }
        let asks = self.desks.iter().map(|desk| desk.choose(operation).clone());
        let (asks, agree): (Vec<_>, _) = (asks.collect(), self.agree);
        Pre::Pend(Box::new(move |pended| {
            Ask::decide_together(&asks, pended, agree, turns);
        }))
    }
}
