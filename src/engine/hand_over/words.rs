//! What two engines say to one another. A message is text: lines of a name, a space and a value.

use std::io;

/// The version of the conversation that this program speaks.
pub(super) const CONVERSATION: u32 = 2;

/// A message.
pub(super) trait Message: Sized {
    /// Its lines.
    fn write(&self) -> String;

    /// Reads the lines; `None` for those of another message.
    fn read(text: &str) -> Option<Self>;
}

/// What a new engine wants to go on with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// Version of this conversation.
    pub(super) conversation: u32,
    pub(super) listen: Vec<String>,
    pub(super) loops: usize,
    /// Its snapshot file; empty: none.
    pub(super) snapshot: String,
}

/// What the running one says to that. The descriptors follow: lock, heart, public, the snapshot if
/// it is the same, sockets by loop and address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Offer {
    /// Why not; empty: it is willing.
    pub(super) refused: String,
    pub(super) addresses: Vec<String>,
    pub(super) snapshot: bool,
    /// With the same key cookies stay good. The channel is the owner's alone.
    pub(super) cookie_key: (u64, u64),
}

/// What they say to one another then, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// New: everything that can fail is done.
    Prepared,
    /// New: the same, and the sizes differ: members must be carried over.
    Moves,
    /// New: the same, but it can't read this memory: a snapshot of all must be written first.
    Reads,
    /// Old: nothing of mine runs any more.
    Yours,
    /// New: I serve.
    Serving,
}

/// How each is written.
const WORDS: [(Say, &str); 5] = [
    (Say::Prepared, "prepared"),
    (Say::Moves, "moves"),
    (Say::Reads, "reads"),
    (Say::Yours, "yours"),
    (Say::Serving, "serving"),
];

impl Message for Wish {
    fn write(&self) -> String {
        let mut lines = line("conversation", self.conversation);
        lines.extend(self.listen.iter().map(|address| line("listen", address)));
        lines + &line("loops", self.loops) + &line("snapshot", &self.snapshot)
    }

    fn read(text: &str) -> Option<Self> {
        Some(Self {
            conversation: value(text, "conversation")?.parse().ok()?,
            listen: values(text, "listen").map(str::to_owned).collect(),
            loops: value(text, "loops")?.parse().ok()?,
            snapshot: value(text, "snapshot")?.to_owned(),
        })
    }
}

impl Message for Offer {
    fn write(&self) -> String {
        let mut lines = line("refused", &self.refused);
        lines.extend(self.addresses.iter().map(|address| line("address", address)));
        let (first, second) = self.cookie_key;
        lines + &line("snapshot", self.snapshot) + &line("key", format!("{first} {second}"))
    }

    fn read(text: &str) -> Option<Self> {
        let (first, second) = value(text, "key")?.split_once(' ')?;
        Some(Self {
            refused: value(text, "refused")?.to_owned(),
            addresses: values(text, "address").map(str::to_owned).collect(),
            snapshot: value(text, "snapshot")?.parse().ok()?,
            cookie_key: (first.parse().ok()?, second.parse().ok()?),
        })
    }
}

impl Message for Say {
    fn write(&self) -> String {
        let (_, word) = WORDS.iter().find(|(say, _)| say == self).expect("every word is there");
        line("say", word)
    }

    fn read(text: &str) -> Option<Self> {
        let said = value(text, "say")?;
        WORDS.iter().find(|(_, word)| *word == said).map(|(say, _)| *say)
    }
}

/// What a message of another kind, or of another version, is answered with.
pub(super) fn misunderstood() -> io::Error {
    io::Error::other("the other program says something that this one does not understand")
}

/// A value has no line breaks: they would end it.
fn line(name: &str, value: impl ToString) -> String {
    format!("{name} {}\n", value.to_string().replace('\n', " "))
}

fn values<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.filter(move |(found, _)| *found == name).map(|(_, value)| value)
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    values(text, name).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        for (listen, snapshot) in
            [(vec!["127.0.0.1:1".to_owned(), "[::1]:2".to_owned()], "/a b/c"), (Vec::new(), "")]
        {
            let wish = Wish { conversation: 2, listen, loops: 3, snapshot: snapshot.to_owned() };
            assert_eq!(Wish::read(&wish.write()), Some(wish));
        }
        for refused in ["", "this engine has 2 loops, not 3"] {
            let offer = Offer {
                refused: refused.to_owned(),
                addresses: vec!["127.0.0.1:1".to_owned()],
                snapshot: true,
                cookie_key: (u64::MAX, 0),
            };
            assert_eq!(Offer::read(&offer.write()), Some(offer));
        }
        for (say, _) in WORDS {
            assert_eq!(Say::read(&say.write()), Some(say));
        }
    }

    /// These lines are what another version of the program reads: it tells from them that the
    /// versions differ.
    #[test]
    fn a_wish_is_what_other_versions_read() {
        let wish = Wish {
            conversation: 2,
            listen: vec!["127.0.0.1:1".to_owned()],
            loops: 3,
            snapshot: "/s\nloops 9".to_owned(),
        };
        let text = "conversation 2\nlisten 127.0.0.1:1\nloops 3\nsnapshot /s loops 9\n";
        assert_eq!(wish.write(), text);
        assert_eq!(Wish::read("conversation = 1\nloops = 2\n"), None);
        assert_eq!(Say::read("say something\n"), None);
    }
}
