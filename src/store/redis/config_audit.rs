//! Audits the settings of a Redis primary: names those that weaken the promises of limits, and how to change them.

use fred::types::Value;

use super::connection::Connection;

/// A setting of Redis that weakens the promises of limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigWarning {
    Evicts,
    FullCoverage,
    NoPersistence,
}

impl ConfigWarning {
    pub const ALL: [Self; 3] = [Self::Evicts, Self::FullCoverage, Self::NoPersistence];

    /// Returns the value of the label `advice` in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Evicts => "evicts",
            Self::FullCoverage => "full_coverage",
            Self::NoPersistence => "no_persistence",
        }
    }

    /// Returns what the setting causes and how to change it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Evicts => {
                "limits are best effort: Redis evicts counters when memory runs short; \
                 set maxmemory-policy noeviction and size maxmemory for the keys"
            }
            Self::FullCoverage => {
                "while one primary is down, the healthy primaries stop serving; set cluster-require-full-coverage no"
            }
            Self::NoPersistence => "a restart of Redis loses its counters; set appendonly yes, or save",
        }
    }
}

/// Audits the settings of a primary. Returns `None` if it does not answer.
pub async fn audit(primary: &Connection, in_cluster: bool) -> Option<Vec<ConfigWarning>> {
    let info =
        |section| async move { primary.command("INFO", &[section]).await.ok().and_then(|text| text.as_string()) };
    let (memory, persistence) = (info("memory").await?, info("persistence").await?);
    let save = setting(primary, "save").await;
    let full_coverage = if in_cluster { setting(primary, "cluster-require-full-coverage").await } else { None };
    Some(warnings(&memory, &persistence, save.as_deref(), full_coverage.as_deref()))
}

/// Returns a setting; `None` if the server has no such setting or does not allow `CONFIG`, as managed services do.
async fn setting(primary: &Connection, name: &'static str) -> Option<String> {
    match primary.command("CONFIG", &["GET", name]).await.ok()? {
        Value::Array(pair) => pair.get(1).and_then(Value::as_string),
        Value::Map(map) => map.inner().into_values().next().and_then(|value| value.as_string()),
        _ => None,
    }
}

/// Returns the warnings for two sections of `INFO` and two settings. A setting that is unknown causes no warning.
fn warnings(memory: &str, persistence: &str, save: Option<&str>, full_coverage: Option<&str>) -> Vec<ConfigWarning> {
    let field = |text: &str, name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(|value| value.trim().to_owned())
    };
    let bounded = field(memory, "maxmemory").is_some_and(|bytes| bytes != "0");
    let evicts = bounded && field(memory, "maxmemory_policy").is_some_and(|policy| policy != "noeviction");
    let appends = field(persistence, "aof_enabled").is_some_and(|on| on == "1");
    let forgets = !appends && save.is_some_and(str::is_empty);
    let all = [
        (ConfigWarning::Evicts, evicts),
        (ConfigWarning::FullCoverage, full_coverage == Some("yes")),
        (ConfigWarning::NoPersistence, forgets),
    ];
    all.into_iter().filter(|(_, applies)| *applies).map(|(warning, _)| warning).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_audited_independently() {
        let memory = "maxmemory:2147483648\r\nmaxmemory_policy:allkeys-lru\r\n";
        let persistence = "loading:0\r\naof_enabled:1\r\n";
        let found = warnings(memory, persistence, Some(""), Some("yes"));
        assert_eq!(found, [ConfigWarning::Evicts, ConfigWarning::FullCoverage]);
        let memory = "maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n";
        assert_eq!(warnings(memory, "aof_enabled:0", Some(""), None), [ConfigWarning::NoPersistence]);
        assert_eq!(warnings(memory, "aof_enabled:0", Some("3600 1"), Some("no")), []);
        assert_eq!(warnings(memory, "aof_enabled:0", None, None), [], "an unknown setting causes no warning");
    }
}
