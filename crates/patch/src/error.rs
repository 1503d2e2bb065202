//! Why a patch was refused, in upstream's words.

use crate::managers::ManagerId;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{StatusCause, StatusDetails};
use meta::{ApiError, Reason};
use std::fmt;

/// A patch that could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The patch itself is malformed; 400.
    #[error("{0}")]
    BadPatch(String),
    /// More operations than allowed; 413.
    #[error("The allowed maximum operations in a JSON patch is {max}, got {got}")]
    TooManyOperations { max: usize, got: usize },
    /// The patch does not fit the object as it is; 422.
    #[error("{0}")]
    DoesNotApply(String),
    /// Other managers own what an apply would change; 409.
    #[error("{0}")]
    Conflicts(Conflicts),
    /// The applied configuration does not fit the type; 500, as upstream answers.
    #[error("{0}")]
    Typed(String),
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::BadPatch(_) => Self::bad_request(message),
            Error::TooManyOperations { .. } => Self::new(Reason::RequestEntityTooLarge, message),
            // Upstream keeps the reason to itself here.
            Error::DoesNotApply(_) => {
                Self::new(Reason::Invalid, "the server rejected our request due to an error in our request")
            }
            Error::Typed(_) => Self::new(Reason::Unknown(500), message),
            Error::Conflicts(conflicts) => {
                let causes = conflicts.0.iter().map(Conflict::cause).collect();
                let mut refusal = Self::new(Reason::Conflict, message);
                refusal.details =
                    Some(Box::new(StatusDetails { causes: Some(causes), ..StatusDetails::default() }));
                refusal
            }
        }
    }
}

/// A field that another manager owns with another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub manager: ManagerId,
    /// For example `.spec.replicas`.
    pub path: String,
}

impl Conflict {
    fn cause(&self) -> StatusCause {
        StatusCause {
            field: Some(self.path.clone()),
            message: Some(format!("conflict with {}", self.manager)),
            reason: Some("FieldManagerConflict".to_owned()),
        }
    }
}

/// All conflicts of one apply, in the order of their managers and paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflicts(pub Vec<Conflict>);

impl fmt::Display for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.0.as_slice() {
            return write!(f, "Apply failed with 1 conflict: conflict with {}: {}", only.manager, only.path);
        }
        write!(f, "Apply failed with {} conflicts: ", self.0.len())?;
        let mut last: Option<&ManagerId> = None;
        for conflict in &self.0 {
            if last != Some(&conflict.manager) {
                let separator = if last.is_some() { "\n" } else { "" };
                write!(f, "{separator}conflicts with {}:", conflict.manager)?;
                last = Some(&conflict.manager);
            }
            write!(f, "\n- {}", conflict.path)?;
        }
        Ok(())
    }
}
