//! Why a call got no reply, and whether the server may have run it.

use fred::error::{Error, ErrorKind};

use super::super::location::Address;

/// The first words of the errors that a server returns before it runs a script or command: nothing was done.
const NOTHING_DONE: [&str; 15] = [
    "BUSY",
    "CLUSTERDOWN",
    "ERR",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOAUTH",
    "NOPERM",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
    "TIDEGATE",
    "UNKILLABLE",
    "WRONGPASS",
];

/// Why a call got no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The call was not sent.
    NotSent,
    /// The slot belongs to this server.
    Moved(Address),
    /// The slot is moving to this server, and the key must be requested there this once.
    Ask(Address),
    /// The slot is moving, and only some of the keys are on this server.
    TryAgain,
    /// The server returned this error and did nothing.
    ServerError(String),
    /// The server returned this error, and may have run a part of the call. A script that finds a key of a wrong type
    /// ends so.
    Interrupted(String),
    /// The server may have run the call.
    Unknown,
}

impl CallError {
    /// Classifies an error of the client library for a call to `server`. Only the errors of [`NOTHING_DONE`] and
    /// redirections prove that the server did nothing; after any other error it may have run the call.
    pub fn classify(error: &Error, server: &Address) -> Self {
        let details = error.details();
        let first_word = details.split(' ').next().unwrap_or("");
        let target = || {
            let (host, port) = details.rsplit(' ').next()?.rsplit_once(':')?;
            let host = if host.is_empty() { &server.host } else { host };
            Some(Address::new(host.to_owned(), port.parse().ok()?))
        };
        match first_word {
            "MOVED" => target().map_or(Self::Unknown, Self::Moved),
            "ASK" => target().map_or(Self::Unknown, Self::Ask),
            "TRYAGAIN" => Self::TryAgain,
            _ if NOTHING_DONE.contains(&first_word) => Self::ServerError(details.to_owned()),
            _ if *error.kind() == ErrorKind::Backpressure => Self::NotSent,
            _ if is_of_server(error) => Self::Interrupted(details.to_owned()),
            _ => Self::Unknown,
        }
    }
}

/// True if the server returned the error: its text begins with a code in capital letters. The client library gives
/// these kinds to such errors, and texts of another form to its own.
fn is_of_server(error: &Error) -> bool {
    use ErrorKind::{Auth, Cluster, Config, InvalidArgument, InvalidCommand, Unknown};
    let has_code = || error.details().split_once(' ').is_some_and(|(code, _)| is_code(code));
    matches!(error.kind(), Auth | Cluster | Config | InvalidArgument | InvalidCommand | Unknown) && has_code()
}

fn is_code(word: &str) -> bool {
    word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_redirections_and_known_server_errors_prove_that_nothing_was_done() {
        let server = Address::new("a".to_owned(), 1);
        let classify = |text: &'static str| CallError::classify(&Error::new(ErrorKind::Unknown, text), &server);
        let address = |host: &str, port| Address::new(host.to_owned(), port);
        assert_eq!(classify("MOVED 3999 127.0.0.1:6381"), CallError::Moved(address("127.0.0.1", 6381)));
        assert_eq!(classify("ASK 3999 ::1:6381"), CallError::Ask(address("::1", 6381)));
        assert_eq!(classify("MOVED 3999 :6381"), CallError::Moved(address("a", 6381)));
        assert_eq!(classify("TRYAGAIN Multiple keys request during rehashing of slot"), CallError::TryAgain);
        assert!(matches!(classify("LOADING Redis is loading the dataset in memory"), CallError::ServerError(_)));
        let wrong = "WRONGTYPE Operation against a key holding the wrong kind of value";
        assert_eq!(classify(wrong), CallError::Interrupted(wrong.to_owned()), "a script may have come that far");
        let timeout = Error::new(ErrorKind::Timeout, "WRONGTYPE x");
        assert_eq!(CallError::classify(&timeout, &server), CallError::Unknown, "the server returned nothing");
        for text in ["", "MOVED", "MOVED 1 x", "Request timed out.", "Canceled", "os error 104", "EOF"] {
            assert_eq!(classify(text), CallError::Unknown, "{text}");
        }
    }
}
