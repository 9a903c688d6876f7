//! A conformance suite for filter communication ports.
//!
//! The behaviour of a port is split into numbered *cases*, A1 to P10, and X1 onwards for what this implementation adds.
//! Each case is one story ([`cases`]), told once against a small interface ([`backend::Backend`]) and run on every
//! backend that exists ([`backends`]): the simulator, a pair in memory, Linux in one process and across
//! processes, each with memory for questions and by packets alone. A
//! backend for another system is one more implementation of that interface. Where a backend cannot express a case it
//! says why, and the table says it again: nothing is left out silently.
//!
//! It is not the place for stress, hostile peers or timing goals; those need a particular transport.

pub mod backend;
pub mod backends;
pub mod case;
pub mod cases;
pub mod report;
pub mod run;
pub mod world;
