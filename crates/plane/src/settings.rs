//! Replicated settings: their names, and which values are valid.

use limiter::rules::MAX_WINDOW_MS;
use serde_json::Value;

/// A setting that all nodes share.
pub struct Setting {
    pub name: &'static str,
    /// Its meaning, in one sentence.
    pub help: &'static str,
    /// Its value until somebody sets it.
    pub default: u64,
    expected: Expected,
}

enum Expected {
    /// A whole number of milliseconds.
    Milliseconds { min: u64, max: u64 },
}

impl Setting {
    /// The unit of the value.
    pub const fn unit(&self) -> &'static str {
        match self.expected {
            Expected::Milliseconds { .. } => "milliseconds",
        }
    }
}

/// How long a learner may be unseen.
pub const DROP_LEARNER_AFTER: Setting = Setting {
    name: "drop_learner_after_ms",
    help: "A learner that was not seen for this long is dropped.",
    default: 3_600_000,
    expected: Expected::Milliseconds { min: 1000, max: MAX_WINDOW_MS },
};

/// Every setting. Later work adds those of regions and events.
pub const SETTINGS: &[Setting] = &[DROP_LEARNER_AFTER];

/// Why a setting is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    #[error("{name}: expected one of {}", known())]
    Unknown { name: String },
    #[error("{name}: expected {expected}")]
    Invalid { name: &'static str, expected: String },
}

fn known() -> String {
    SETTINGS.iter().map(|setting| setting.name).collect::<Vec<_>>().join(", ")
}

/// Checks the value of a setting.
///
/// # Errors
/// Returns an error if there is no such setting, or if the value is not valid for it.
pub fn check_setting(name: &str, value: &Value) -> Result<(), SettingError> {
    let setting = SETTINGS.iter().find(|setting| setting.name == name);
    let setting = setting.ok_or_else(|| SettingError::Unknown { name: name.to_owned() })?;
    match setting.expected {
        Expected::Milliseconds { min, max } => {
            let fits = value.as_u64().is_some_and(|value| (min..=max).contains(&value));
            let invalid = || SettingError::Invalid {
                name: setting.name,
                expected: format!("a whole number of milliseconds from {min} to {max}"),
            };
            fits.then_some(()).ok_or_else(invalid)
        }
    }
}
