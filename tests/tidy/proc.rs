//! A thread that reads `/proc` formats paths and waits for locks of the kernel. The engine does so
//! only for the boot of the machine, once, at start.

use crate::source::{Finding, hold};

/// The one file of `/proc` that the engine reads.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// And what its client looks at: the name of the machine, for that of an instance, and the owner of
/// its own process.
const CLIENT: [&str; 2] = ["\"/proc/sys/kernel/hostname\"", "\"/proc/self\""];

fn reads(text: &str) -> Vec<Finding> {
    let lines = text.lines().enumerate();
    let reads = lines.filter(|(_, line)| {
        let code = line.split("//").next().unwrap_or_default();
        let code = CLIENT.iter().fold(code.replace(BOOT, ""), |code, path| code.replace(path, ""));
        code.contains("\"/proc/")
    });
    reads.map(|(at, line)| (at + 1, line.trim().to_owned())).collect()
}

#[test]
fn proc_is_not_read() {
    hold(|source| source.room().is_some(), |source| reads(&source.text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_proc_is_found() {
        assert_eq!(reads("read(\"/proc/self/stat\");").len(), 1);
        assert_eq!(reads("format!(\"/proc/{tid}/stat\")").len(), 1);
        assert_eq!(reads(&format!("read(\"{BOOT}\")")), []);
        assert_eq!(reads("/// See `/proc/sys/net`, or \"here\".\n"), []);
    }
}
