//! envoyproxy/ratelimit: a tree of keys and values. A descriptor of a request takes one limit of it at most.

mod limits;
mod order;
mod read;
mod replaces;

use super::Report;
use super::names::Names;
use crate::yaml::decode::Fields;
use crate::yaml::tree::{Node, Value};
use limiter::rules::{Charge, Domain, Path};

/// The domain of a file. `None` if it is no file of envoyproxy/ratelimit.
pub fn domain(root: &Node, names: &mut Names, report: &mut Report) -> Option<Domain> {
    let path = Path::default();
    let has = |field| matches!(&root.value, Value::Map(entries) if entries.iter().any(|(key, ..)| key == field));
    if !has("domain") {
        let message = "expected a file of envoyproxy/ratelimit, which has the fields domain and descriptors";
        report.errors.add(&path, message);
        return None;
    }
    let mut fields = Fields::new(root, path, &mut report.errors);
    let (domain_path, descriptors) = (fields.path("domain"), fields.path("descriptors"));
    let domain = fields.get("domain").and_then(|node| report.text(node, &domain_path)).unwrap_or_default();
    if domain.is_empty() {
        report.errors.add(&domain_path, "expected the name of a domain");
    }
    let entries = fields.get("descriptors").map(|node| read::descriptors(node, &descriptors, report));
    report.unread(&fields);
    let limits = limits::limits(&domain, &entries.unwrap_or_default(), names, report);
    report.notice(
        &domain_path,
        "a denied request for several hits counts there, and does not count here: `overdraft: true` on a limit counts \
         it",
    );
    Some(Domain { domain, charge: Charge::Each, limits, ..Default::default() })
}
