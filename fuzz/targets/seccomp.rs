//! Seccomp profiles: as text, where any gets a program that the kernel takes or an error, and as
//! rules, where the program must decide as the rules do.

#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use bulkhead_container::fuzzing;
use bulkhead_fuzz::profile::{Profile, Sample};
use bulkhead_fuzz::program::Program;
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|data: &[u8]| -> Corpus {
    if data.first() == Some(&b'{') {
        let text = String::from_utf8_lossy(data);
        // One that says nothing at all is no filter, and has no program.
        let programs = fuzzing::seccomp(&text).into_iter().flatten();
        for program in programs.filter(|program| !program.is_empty()) {
            Program::new(program).check();
        }
        return Corpus::Keep;
    }
    let mut data = Unstructured::new(data);
    let (Ok(profile), Ok(samples)) = (
        Profile::arbitrary(&mut data),
        <[Sample; 8]>::arbitrary(&mut data),
    ) else {
        return Corpus::Reject;
    };
    let text = profile.to_json();
    for program in fuzzing::seccomp(&text) {
        match program {
            Ok(program) => compare(&Program::new(program), &profile, &samples, &text),
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains("instructions"), "{message}\n{text}");
            }
        }
    }
    Corpus::Keep
});

fn compare(program: &Program, profile: &Profile, samples: &[Sample], text: &str) {
    program.check();
    for call in profile.calls(samples) {
        let decided = program.run(&call);
        let expected = profile.decide(&call);
        assert_eq!(
            decided, expected,
            "{call:x?}: {decided:#x}, not {expected:#x}\n{text}"
        );
    }
}
