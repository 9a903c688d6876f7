//! libFuzzer's way into [`fltport_fuzz::wire`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fltport_fuzz::wire::run(data));
