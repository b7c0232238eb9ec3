//! Settings as text: values of flags and variables, and the configuration file.
//!
//! The file is TOML with the names of the table of settings; dashes may stand for underscores.

use heartline::settings::{Kind, SETTINGS, Setting};
use heartline::{Config, ConfigError};
use std::collections::BTreeMap;
use std::ffi::OsString;
use toml::de::{DeTable, DeValue};

/// The texts that are given for each setting: one, or one for each entry of a list.
pub(crate) type Texts = BTreeMap<&'static str, Vec<OsString>>;

/// The highest CPU number that is read, so that a range of CPUs has a bound.
const CPU_MAX: usize = 65_535;

/// Reads a configuration from the texts that are given for some of its settings, and checks it.
pub(crate) fn configure(
    given: impl Fn(&'static Setting) -> Option<Vec<OsString>>,
) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    for setting in &SETTINGS {
        if let Some(texts) = given(setting) {
            read(setting, &mut config, texts)?;
        }
    }
    config.validate()?;
    Ok(config)
}

/// Reads one setting. Scalars have one text.
fn read(
    setting: &'static Setting,
    config: &mut Config,
    texts: Vec<OsString>,
) -> Result<(), ConfigError> {
    let shown = |text: &OsString| text.to_string_lossy().into_owned();
    let one = texts.first().map(shown).unwrap_or_default();
    let refuse = || setting.refusal(&one);
    match &setting.kind {
        Kind::Number { range, set, .. } => {
            let number = one.parse().ok().filter(|number| range.contains(number));
            set(config, number.ok_or_else(refuse)?);
        }
        Kind::Time { range, set, .. } => {
            let time = humantime::parse_duration(&one).ok().filter(|time| range.contains(time));
            set(config, time.ok_or_else(refuse)?);
        }
        Kind::Switch { set, .. } => match one.as_str() {
            "on" => set(config, true),
            "off" => set(config, false),
            _ => return Err(refuse()),
        },
        Kind::Cpus { set, .. } => set(config, cpus(&one).ok_or_else(refuse)?),
        Kind::Path { set, .. } => set(config, texts.into_iter().next().unwrap_or_default().into()),
        Kind::Addresses { set, .. } => {
            let address = |text| {
                let text = shown(text);
                text.parse().map_err(|_| setting.refusal(&text))
            };
            set(config, texts.iter().map(address).collect::<Result<_, _>>()?);
        }
        Kind::Texts { set, .. } => set(config, texts.iter().map(shown).collect()),
    }
    Ok(())
}

/// Numbers and ranges, such as `0,2-3`.
fn cpus(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > CPU_MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// The texts that a file gives.
pub(crate) fn parse(file: &str) -> Result<Texts, String> {
    let table = DeTable::parse(file).map_err(|error| error.to_string().trim_end().to_owned())?;
    let mut texts = Texts::new();
    for (name, value) in table.get_ref() {
        let line = file[..name.span().start].matches('\n').count() + 1;
        let name = name.get_ref();
        let Some(setting) = Setting::named(&name.replace('-', "_")) else {
            let names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
            return Err(format!(
                "line {line}: {name} is not a setting; there are {}",
                names.join(", ")
            ));
        };
        let value = values(setting, value.get_ref())
            .map_err(|wrong| format!("line {line}: {}", setting.refusal(&wrong)))?;
        if texts.insert(setting.name, value).is_some() {
            return Err(format!("line {line}: {} is there twice; leave one away", setting.name));
        }
    }
    Ok(texts)
}

/// A value of the file as texts. Paths, addresses and names must be texts there; other values may
/// be numbers, booleans or lists as well.
///
/// # Errors
/// The first value that is of another type, or that type.
fn values(setting: &Setting, value: &DeValue<'_>) -> Result<Vec<OsString>, String> {
    let wrong = |value: &DeValue<'_>| scalar(value).unwrap_or_else(|| value.type_str().into());
    let string =
        |value: &DeValue<'_>| value.as_str().map(OsString::from).ok_or_else(|| wrong(value));
    match &setting.kind {
        Kind::Path { .. } => Ok(vec![string(value)?]),
        Kind::Addresses { .. } | Kind::Texts { .. } => match value.as_array() {
            Some(list) => list.iter().map(|one| string(one.get_ref())).collect(),
            None => Ok(vec![string(value)?]),
        },
        _ => scalar(value).map(|text| vec![text.into()]).ok_or_else(|| value.type_str().into()),
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Boolean(on) => Some(if *on { "on" } else { "off" }.into()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            Some(parsed.map_or_else(|_| number.as_str().to_owned(), |number| number.to_string()))
        }
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Array(list) => {
            let parts: Option<Vec<String>> = list.iter().map(|one| scalar(one.get_ref())).collect();
            Some(parts?.join(","))
        }
        DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

/// A configuration as a file that would give it.
pub(crate) fn file(config: &Config) -> String {
    let quoted = |text: &OsString| toml::Value::String(text.display().to_string()).to_string();
    let line = |setting: &Setting| {
        let texts = setting.texts(config);
        let value = match &setting.kind {
            Kind::Addresses { .. } | Kind::Texts { .. } => {
                format!("[{}]", texts.iter().map(quoted).collect::<Vec<_>>().join(", "))
            }
            Kind::Number { .. } => texts.first()?.display().to_string(),
            _ => quoted(texts.first()?),
        };
        Some(format!("{} = {value}\n", setting.name))
    };
    SETTINGS.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn from_file(text: &str) -> Result<Config, String> {
        let texts = parse(text)?;
        configure(|setting| texts.get(setting.name).cloned()).map_err(|error| error.to_string())
    }

    fn refused(text: &str) -> String {
        from_file(text).unwrap_err()
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(from_file("").unwrap(), Config::default());
    }

    #[test]
    fn what_is_shown_can_be_read_back() {
        let config = from_file(
            "deny = [\"a\", \"b-*\"]\nspin = \"20us\"\ntombstone = \"1day\"\nsnapshot = \"off\"",
        )
        .unwrap();
        let shown = file(&config);
        for expected in ["spin = \"20us\"\n", "tombstone = \"24h\"\n", "snapshot = \"off\"\n"] {
            assert!(shown.contains(expected), "{shown}");
        }
        assert_eq!(file(&from_file(&shown).unwrap()), shown);
    }

    #[test]
    fn values_of_a_file_may_be_written_in_several_ways() {
        let config = from_file(
            "cores = [0]\nlisten = \"127.0.0.1:7\"\nreceive-buffer = 0x2000\nhold = false",
        )
        .unwrap();
        assert_eq!((config.cores, config.receive_buffer), (Some(vec![0]), 8192));
        assert!(!config.hold && config.listen[0].port() == 7);
        let config = from_file("capacity = \"1_024\"").map(|_| ()).unwrap_err();
        assert!(config.contains("\"1_024\" is not a whole number from 16"), "{config}");
        assert_eq!(from_file("capacity = 1_024").unwrap().capacity, 1024);
        assert_eq!(from_file("tombstone = \"2min\"").unwrap().tombstone, Duration::from_secs(120));
    }

    #[test]
    fn wrong_values_are_named_with_what_is_accepted() {
        assert_eq!(
            refused("capacity = 15"),
            "capacity: \"15\" is not a whole number from 16 to 16777216"
        );
        assert!(refused("capacity = \"many\"").contains("from 16 to 16777216"));
        assert!(refused("capacity = 64.5").contains("whole number from 16"));
        assert!(refused("spin = \"2s\"").contains("from 0s to 1s"));
        assert!(refused("tombstone = \"soon\"").contains("from 1s to 24h"));
        assert!(refused("hold = \"maybe\"").contains("\"maybe\" is not on or off"));
        assert!(refused("listen = [\"localhost\"]").contains("127.0.0.1:19528"));
        assert!(refused("cores = \"3-1\"").contains("such as 0,2-3"));
        assert!(refused("state = \"\"").contains("name of a directory"));
        assert!(refused("\n\ndeny = 7").contains("line 3: deny: \"7\" is not a text"));
        assert!(refused("listen = [5]").contains("line 1: listen: \"5\" is not an IP address"));
        assert!(refused("capacity = 1979-05-27").contains("\"datetime\" is not a whole number"));
        assert!(refused("\ncapcity = 1").contains("line 2: capcity is not a setting"));
        assert!(refused("receive-buffer = 4096\nreceive_buffer = 4096").contains("there twice"));
        assert!(refused("capacity = ").contains("TOML"));
    }
}
