#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_compose::fuzz::compose(bytes));
