//! The configuration file, as the daemon reads it.

#[path = "../../src/heartlined/text.rs"]
mod text;

use heartline::Config;

/// Any text: refused with a sentence, or a configuration that is good and says itself again.
pub fn config(data: &[u8]) {
    let Ok(file) = std::str::from_utf8(data) else { return };
    match read(file) {
        Ok(config) => {
            config.validate().expect("what passed the check is valid");
            let written = text::file(&config);
            let again = read(&written).expect("a configuration writes a file that is accepted");
            assert_eq!(text::file(&again), written);
        }
        Err(reason) => assert!(reason.len() > 10),
    }
}

fn read(file: &str) -> Result<Config, String> {
    let texts = text::parse(file)?;
    let given = |setting: &heartline::settings::Setting| texts.get(setting.name).cloned();
    text::configure(given).map_err(|error| error.to_string())
}
