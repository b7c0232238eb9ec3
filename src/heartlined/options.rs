//! What the daemon is told: flags, environment variables and a file, by the table of settings.

use crate::text::{self, Texts};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use heartline::Config;
use heartline::settings::{Kind, SETTINGS, Setting};
use std::ffi::OsString;
use std::path::PathBuf;

/// The variable that names the configuration file.
const CONFIG_VARIABLE: &str = "HEARTLINE_CONFIG";
/// The variable that tells clients on this machine where their engines are.
const CLIENT_VARIABLE: &str = "HEARTLINE_ENGINE";

/// The command line.
pub(crate) struct Options {
    matches: ArgMatches,
}

impl Options {
    /// Reads the command line and the environment. Does not return when they ask for help, or are
    /// no command line of this program.
    pub(crate) fn parse() -> Self {
        Self { matches: command().get_matches() }
    }

    /// Whether the configuration is to be shown only.
    pub(crate) fn is_check(&self) -> bool {
        self.matches.get_flag("check_config")
    }

    /// Whether a running engine is to be replaced.
    pub(crate) fn replaces(&self) -> bool {
        self.matches.get_flag("replace")
    }

    /// The configuration. Flags win over variables, these over the file, the file over defaults.
    pub(crate) fn config(&self) -> Result<Config, String> {
        let path: Option<&PathBuf> = self.matches.get_one("config");
        let origin = match self.matches.value_source("config") {
            Some(ValueSource::EnvVariable) => format!(" ({CONFIG_VARIABLE})"),
            _ => String::new(),
        };
        let in_file = |reason: String| match path {
            Some(path) => format!("configuration file {}{origin}: {reason}", path.display()),
            None => reason,
        };
        let file = match path {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| error.to_string())
                .and_then(|file| text::parse(&file))
                .map_err(in_file)?,
            None => Texts::new(),
        };
        let given = |setting: &'static Setting| {
            let told = self.matches.get_many::<OsString>(setting.name);
            told.map(|texts| texts.cloned().collect()).or_else(|| file.get(setting.name).cloned())
        };
        text::configure(given).map_err(|error| {
            let reason = in_flags(&error.reason);
            match self.matches.value_source(error.setting) {
                Some(ValueSource::CommandLine) => format!("{}: {reason}", flag(error.setting)),
                Some(_) => format!("{}: {reason}", variable(error.setting)),
                None if file.contains_key(error.setting) => {
                    in_file(format!("{}: {reason}", error.setting))
                }
                None => format!("{}: {reason}", error.setting),
            }
        })
    }
}

fn command() -> Command {
    let command = Command::new("heartlined")
        .version(env!("CARGO_PKG_VERSION"))
        .about("The heartline engine: UDP heartbeats in, who is alive out")
        .after_help(
            "Flags win over environment variables (HEARTLINE_ and the flag's name), these over \
             the file, the file over the defaults.",
        );
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .env(CONFIG_VARIABLE)
        .value_parser(value_parser!(PathBuf))
        .help("TOML file with the same names as the flags (dashes may be underscores)");
    let check = Arg::new("check_config")
        .long("check-config")
        .visible_alias("print-config")
        .action(ArgAction::SetTrue)
        .help("Check the configuration, print it as a file, and exit");
    let replace = Arg::new("replace").long("replace").action(ArgAction::SetTrue).help(
        "Take over from the engine that runs on the same --state: its sockets, its memory, and \
         what waits in its queues",
    );
    command.args(SETTINGS.iter().map(argument)).args([config, check, replace])
}

fn argument(setting: &'static Setting) -> Arg {
    let argument = Arg::new(setting.name)
        .long(setting.name.replace('_', "-"))
        .value_name(setting.placeholder)
        .env(variable(setting.name))
        .value_parser(value_parser!(OsString))
        .help(in_flags(&setting.description()));
    match &setting.kind {
        Kind::Addresses { .. } | Kind::Texts { .. } => {
            argument.action(ArgAction::Append).value_delimiter(',')
        }
        Kind::Path { .. } => argument,
        // So that a negative number is refused with what is accepted.
        _ => argument.allow_hyphen_values(true),
    }
}

fn flag(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}

fn variable(name: &str) -> String {
    format!("HEARTLINE_{}", name.to_uppercase())
}

/// Whether an environment variable is one of heartline's.
pub(crate) fn is_variable(name: &str) -> bool {
    [CONFIG_VARIABLE, CLIENT_VARIABLE].contains(&name)
        || SETTINGS.iter().any(|setting| variable(setting.name) == name)
}

/// A sentence of the engine in the words of the command line: it has the names of settings between
/// backquotes.
pub(crate) fn in_flags(sentence: &str) -> String {
    SETTINGS.iter().fold(sentence.to_owned(), |sentence, setting| {
        sentence.replace(&format!("`{}`", setting.name), &flag(setting.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str]) -> Result<Config, String> {
        let matches = command().try_get_matches_from([&["heartlined"], flags].concat());
        Options { matches: matches.unwrap() }.config()
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
        assert!(is_variable("HEARTLINE_RECEIVE_BUFFER") && is_variable("HEARTLINE_CONFIG"));
        assert!(is_variable("HEARTLINE_ENGINE") && !is_variable("HEARTLINE_RECEIVE"));
        assert_eq!(
            in_flags("lower `capacity`, raise `receive_buffer`"),
            "lower --capacity, raise --receive-buffer"
        );
    }

    #[test]
    fn lists_are_repeated_or_joined() {
        let config = config(&["--deny", "a,b*", "--deny", "c", "--cores", "0"]).unwrap();
        assert_eq!(config.deny, ["a", "b*", "c"]);
        assert_eq!(config.cores, Some(vec![0]));
    }

    #[test]
    fn a_refusal_names_the_flag() {
        assert_eq!(
            config(&["--receive-buffer", "-1"]).unwrap_err(),
            "--receive-buffer: \"-1\" is not a whole number from 4096 to 1073741824"
        );
    }
}
