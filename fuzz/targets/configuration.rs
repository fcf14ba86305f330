//! The text of a `config.json`: any gets a plan or an error that says something, on one line.

#![no_main]

use bulkhead_container::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = fuzzing::configuration(text) {
        let message = error.to_string();
        assert!(!message.is_empty());
        assert!(!message.ends_with(": "), "{message:?} does not say why");
    }
});
