//! What has to go on, for a bare client that has memory; among them one of 32 bits, which the memory does not care about.

use std::time::Duration;

use fltport::NtStatus;
use fltport_engine::wire::ToHost;

use super::common::memory_raw::Memory;
use super::common::raw::Raw;
use super::common::stage::Stage;
use super::common::watchdog_of;
use super::work::ROUNDS;

/// As many questions and requests as others have.
pub(crate) fn work(memory: &mut Memory) {
    for number in 0..ROUNDS as u64 {
        memory.post(0);
        assert!(memory.raw.ask(number, "ask 8 15000"));
        let id = memory.message(0);
        assert_eq!(memory.payload(0), [7; 8]);
        assert!(memory.reply(id, b"answer"));
        let answers = memory.answers(vec![number]).unwrap();
        assert_eq!(answers, ["answer"]);
    }
}

#[test]
fn a_client_of_32_bits_has_the_same_memory() {
    let _watchdog = watchdog_of("a_client_of_32_bits", Duration::from_secs(60));
    let stage = Stage::new(&[]);
    let raw = Raw::connect_below(stage.directory());
    let hello = ToHost::Hello {
        bits: 32,
        length: 0,
    };
    assert!(raw.frame(&hello, b""));
    assert_eq!(raw.status(), Some(NtStatus::SUCCESS));
    let mut memory = Memory::of(raw).unwrap();
    work(&mut memory);
    memory.post(0);
    assert!(memory.raw.ask(ROUNDS as u64, "ask 8 300"));
    let id = memory.message(0);
    let late = memory.answers(vec![ROUNDS as u64]).unwrap();
    assert_eq!(late, ["the deadline passed before the reply"]);
    assert!(!memory.claim(id));
    drop(memory);
    stage.check("a client of 32 bits");
    stage.finish();
}
