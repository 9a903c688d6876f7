//! libFuzzer's way into [`fltport_fuzz::transport`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fltport_fuzz::transport::run(data));
