//! What a primary's settings cost, and what to do about it.

use fred::types::Value;

use super::connection::Connection;

/// A setting that weakens what limits promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Advice {
    Evicts,
    FullCoverage,
    NoPersistence,
}

impl Advice {
    pub const ALL: [Self; 3] = [Self::Evicts, Self::FullCoverage, Self::NoPersistence];

    /// Its name in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Evicts => "evicts",
            Self::FullCoverage => "full_coverage",
            Self::NoPersistence => "no_persistence",
        }
    }

    /// What it means, and what to do.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Evicts => {
                "best effort: Redis evicts counters when memory runs short; set maxmemory-policy noeviction and size maxmemory for the keys"
            }
            Self::FullCoverage => "one dead primary stops the healthy ones; set cluster-require-full-coverage no",
            Self::NoPersistence => "a restart of Redis forgets its counters; set appendonly yes, or save",
        }
    }
}

/// What this primary says of itself; `None` when it says nothing.
pub async fn of(primary: &Connection, in_cluster: bool) -> Option<Vec<Advice>> {
    let info =
        |section| async move { primary.command("INFO", &[section]).await.ok().and_then(|text| text.as_string()) };
    let (memory, persistence) = (info("memory").await?, info("persistence").await?);
    let saves = setting(primary, "save").await;
    let coverage = if in_cluster { setting(primary, "cluster-require-full-coverage").await } else { None };
    Some(judge(&memory, &persistence, saves.as_deref(), coverage.as_deref()))
}

/// A setting; `None` where there is none, or where the server keeps it to itself, as managed services do.
async fn setting(primary: &Connection, name: &'static str) -> Option<String> {
    match primary.command("CONFIG", &["GET", name]).await.ok()? {
        Value::Array(pair) => pair.get(1).and_then(Value::as_string),
        Value::Map(map) => map.inner().into_values().next().and_then(|value| value.as_string()),
        _ => None,
    }
}

fn judge(memory: &str, persistence: &str, saves: Option<&str>, coverage: Option<&str>) -> Vec<Advice> {
    let field = |text: &str, name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(|value| value.trim().to_owned())
    };
    let bounded = field(memory, "maxmemory").is_some_and(|bytes| bytes != "0");
    let evicts = bounded && field(memory, "maxmemory_policy").is_some_and(|policy| policy != "noeviction");
    let appends = field(persistence, "aof_enabled").is_some_and(|on| on == "1");
    let forgets = !appends && saves.is_some_and(str::is_empty);
    let found =
        [(Advice::Evicts, evicts), (Advice::FullCoverage, coverage == Some("yes")), (Advice::NoPersistence, forgets)];
    found.into_iter().filter(|(_, is)| *is).map(|(advice, _)| advice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_judged_for_itself() {
        let memory = "maxmemory:2147483648\r\nmaxmemory_policy:allkeys-lru\r\n";
        let persistence = "loading:0\r\naof_enabled:1\r\n";
        assert_eq!(judge(memory, persistence, Some(""), Some("yes")), [Advice::Evicts, Advice::FullCoverage]);
        let memory = "maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n";
        assert_eq!(judge(memory, "aof_enabled:0", Some(""), None), [Advice::NoPersistence]);
        assert_eq!(judge(memory, "aof_enabled:0", Some("3600 1"), Some("no")), []);
        assert_eq!(judge(memory, "aof_enabled:0", None, None), [], "what is not told is not held against it");
    }
}
