//! A configuration file: no input panics, and what is valid is printed as a file that says the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::config;

fuzz_target!(|bytes: &[u8]| {
    match config::parse("fuzz.yaml", bytes) {
        Ok(parsed) => {
            let printed = parsed.config.to_yaml();
            let again = config::parse("printed.yaml", printed.as_bytes());
            let again = again.unwrap_or_else(|report| panic!("{printed}\n{report}"));
            assert_eq!(again.config.to_yaml(), printed);
            assert!(config::changes(&parsed.config, &again.config).is_empty());
        }
        Err(report) => assert!(!report.to_string().is_empty() && report.errors() > 0),
    }
});
