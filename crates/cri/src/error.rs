//! What can go wrong with the runtime, one variant for each decision a caller makes.

use std::time::Duration;

use tonic::{Code, Status};

/// A failed call to the runtime. The text is the one gRPC clients of the runtime print, because it
/// ends in pod conditions and events that people and tools know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The container, sandbox or image is not there (or, for a pull, not in the registry).
    #[error("rpc error: code = NotFound desc = {message}")]
    NotFound { message: String },
    /// Something of that name exists already: an earlier attempt succeeded after all.
    #[error("rpc error: code = AlreadyExists desc = {message}")]
    AlreadyExists { message: String },
    /// The runtime is not there or is going away: try again later.
    #[error("rpc error: code = Unavailable desc = {message}")]
    Unavailable { message: String },
    /// No answer within the call's bound; the runtime may still carry the call out.
    #[error("rpc error: code = DeadlineExceeded desc = {call} did not answer within {}s", after.as_secs())]
    DeadlineExceeded { call: &'static str, after: Duration },
    /// This runtime does not know the call: use another way.
    #[error("rpc error: code = Unimplemented desc = {message}")]
    Unimplemented { message: String },
    /// The request cannot succeed as it is.
    #[error("rpc error: code = InvalidArgument desc = {message}")]
    InvalidArgument { message: String },
    /// Anything else the runtime reported.
    #[error("rpc error: code = {code} desc = {message}")]
    Other { code: &'static str, message: String },
}

impl Error {
    /// An error of a call named `call`, bounded by `after`.
    pub(crate) fn from_status(call: &'static str, after: Option<Duration>, status: &Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::NotFound => Self::NotFound { message },
            Code::AlreadyExists => Self::AlreadyExists { message },
            // tonic reports a connection that could not be made or was lost as one of these two
            Code::Unavailable => Self::Unavailable { message },
            Code::Cancelled | Code::DeadlineExceeded if after.is_some() && is_local(status) => {
                Self::DeadlineExceeded { call, after: after.unwrap_or_default() }
            }
            Code::Unknown if is_transport(status) => Self::Unavailable { message },
            // the CRI plugin of a containerd that is still starting says so under "Unknown"
            Code::Unknown if message.contains("server is not initialized yet") => {
                Self::Unavailable { message }
            }
            Code::Unimplemented => Self::Unimplemented { message },
            Code::InvalidArgument => Self::InvalidArgument { message },
            code => Self::Other { code: code_name(code), message },
        }
    }

    /// Whether what was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::DeadlineExceeded { .. })
    }

    /// The runtime's own text, without the gRPC prefix.
    pub fn message(&self) -> String {
        match self {
            Self::NotFound { message }
            | Self::AlreadyExists { message }
            | Self::Unavailable { message }
            | Self::Unimplemented { message }
            | Self::InvalidArgument { message }
            | Self::Other { message, .. } => message.clone(),
            Self::DeadlineExceeded { call, after } => {
                format!("{call} did not answer within {}s", after.as_secs())
            }
        }
    }
}

fn is_local(status: &Status) -> bool {
    let message = status.message();
    message.contains("Timeout expired") || message.contains("deadline")
}

fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// gRPC's name of a code, as Go prints it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_by_what_the_caller_does_next() {
        #[track_caller]
        fn check(status: Status, expect: &str, not_found: bool, unavailable: bool) {
            let error = Error::from_status("Version", Some(Duration::from_secs(2)), &status);
            assert_eq!(error.to_string(), expect);
            assert_eq!((error.is_not_found(), error.is_unavailable()), (not_found, unavailable));
        }
        check(
            Status::not_found("no such container"),
            "rpc error: code = NotFound desc = no such container",
            true,
            false,
        );
        check(
            Status::unknown("failed to create"),
            "rpc error: code = Unknown desc = failed to create",
            false,
            false,
        );
        check(
            Status::unknown("server is not initialized yet"),
            "rpc error: code = Unavailable desc = server is not initialized yet",
            false,
            true,
        );
        check(
            Status::cancelled("Timeout expired"),
            "rpc error: code = DeadlineExceeded desc = Version did not answer within 2s",
            false,
            true,
        );
    }
}
