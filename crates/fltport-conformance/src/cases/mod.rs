//! The stories, one file for each chapter. A table at the top of each names its cases; below, each story is a function
//! with the case's number.

mod a;
mod b;
mod b_limits;
mod c;
mod d;
mod e;
mod f;
mod f_races;
mod g;
mod h;
mod i;
mod j;
mod k;
mod l;
mod m;
mod n;
mod n_mix;
mod p;
mod random;
mod x;

use crate::case::Case;
use crate::world::World;

/// Every case, in order.
#[must_use]
pub fn all() -> Vec<Case> {
    let mut all = [
        a::CASES,
        b::CASES,
        b_limits::CASES,
        c::CASES,
        d::CASES,
        e::CASES,
        f::CASES,
        f_races::CASES,
        g::CASES,
        h::CASES,
        i::CASES,
        j::CASES,
        k::CASES,
        l::CASES,
        m::CASES,
        n::CASES,
        p::CASES,
        x::CASES,
    ]
    .concat();
    // A chapter in several files need not be cut where its numbers are.
    all.sort_by_key(Case::place);
    all
}

/// The story of a case that no backend of today can express: its needs say why.
fn elsewhere(_: &mut World) {
    panic!("a backend says that it can express this case, but nobody has told it yet");
}
