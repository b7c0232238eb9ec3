//! The configuration file.

use heartline::Options;

/// Any text: refused with a sentence, or a configuration that is good and says itself again.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let options: Options = match toml::from_str(text) {
        Ok(options) => options,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    match options.check() {
        Ok(config) => {
            config.validate().expect("what passed the check is valid");
            let again: Options = toml::from_str(&config.to_file())
                .expect("a configuration writes a file that can be read");
            assert_eq!(again.check().expect("and that is accepted").capacity, config.capacity);
        }
        Err(error) => assert!(error.to_string().len() > 10),
    }
}
