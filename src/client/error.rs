//! Why a request failed.

use crate::call::ATTEMPTS;
use heartline_wire::{AttributesError, Status, TextError};
use std::io;
use std::net::SocketAddr;

/// Why a request has no answer. The session goes on working.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The socket failed, or the kernel gave no random number.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// No reply came; the request may or may not have been done.
    #[error("no reply from {0} after {ATTEMPTS} attempts")]
    Timeout(SocketAddr),
    /// The engine refused. `field` is the offset of the wrong field in the request when the status
    /// is [`Status::Invalid`], else 0.
    #[error("refused: {status}{}", place(*.status, *.field))]
    Refused {
        /// The reason.
        status: Status,
        /// Offset in bytes from the start of the frame.
        field: u16,
    },
    /// A text does not fit its field; nothing was sent.
    #[error("{what} {source}")]
    Text {
        /// Name of the field.
        what: &'static str,
        /// The reason.
        source: TextError,
    },
    /// The attributes do not fit; nothing was sent.
    #[error(transparent)]
    Attributes(#[from] AttributesError),
    /// A number is outside what the format can say; nothing was sent.
    #[error("{0}")]
    Value(&'static str),
    /// The reply does not have the form that its kind and status promise.
    #[error("the reply to {0} does not have the form that its kind and status promise")]
    Reply(&'static str),
}

fn place(status: Status, field: u16) -> String {
    match status {
        Status::Invalid => format!(" (field at byte {field})"),
        _ => String::new(),
    }
}

/// Names the text that does not fit.
pub(crate) fn text(what: &'static str) -> impl Fn(TextError) -> ClientError {
    move |source| ClientError::Text { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_field_only_if_there_is_one() {
        let refused = |status, field| ClientError::Refused { status, field }.to_string();
        assert_eq!(
            refused(Status::Invalid, 52),
            "refused: a field has a value that is not accepted (field at byte 52)"
        );
        assert_eq!(
            refused(Status::Quota, 0),
            "refused: the source address holds as many as one may"
        );
    }
}
