//! A ClientHello: no input panics, none is read twice differently, and a name is one that a host can have.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::protocol::client_hello::{Progress, RECORDS_MAX, host_name, read};

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes);
    // In pieces the same comes out.
    for length in 0..bytes.len() {
        match read(&bytes[..length]) {
            Progress::Incomplete { least } => assert!(least > length && least <= RECORDS_MAX),
            early => {
                assert_eq!(early, whole, "after {length} bytes");
                break;
            }
        }
    }
    if let Progress::Complete(hello) = whole {
        if let Some(name) = hello.server_name() {
            assert_eq!(host_name(name.as_bytes()).as_deref(), Some(name));
        }
        assert!(hello.protocols().all(|protocol| !protocol.is_empty()));
    }
});
