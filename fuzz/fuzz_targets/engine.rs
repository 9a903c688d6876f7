//! libFuzzer's way into [`fltport_fuzz::engine`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fltport_fuzz::engine::run(data));
