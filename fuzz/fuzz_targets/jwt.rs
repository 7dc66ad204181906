#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| cameo_fuzz::jwt::run(input));
