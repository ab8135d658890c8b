//! A PROXY header: no input panics, none is read twice differently, and what was read can be written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::protocol::proxy::{self, Progress, Version};

fuzz_target!(|bytes: &[u8]| {
    let whole = proxy::read(bytes);
    // In pieces the same comes out, at the same length.
    for length in 0..bytes.len() {
        match proxy::read(&bytes[..length]) {
            Progress::Incomplete { least } => assert!(least > length),
            early => {
                assert_eq!(format!("{early:?}"), format!("{whole:?}"), "after {length} bytes");
                break;
            }
        }
    }
    if let Progress::Complete { length, header } = whole {
        assert!(length <= bytes.len());
        for version in [Version::V1, Version::V2] {
            let written = proxy::write(version, header.endpoints, &[]);
            let Progress::Complete { length, header: again } = proxy::read(&written) else {
                panic!("{written:?} is not read")
            };
            assert_eq!(length, written.len());
            assert_eq!(again.endpoints, header.endpoints);
        }
    }
});
