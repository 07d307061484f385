//! Sets what an API key says about a check: its user, tier and key id.
//!
//! The key itself goes no further than this: the node replaces it by the key's id, so that no counter, log or event
//! names it.

use std::time::Duration;

use futures_util::future::join_all;
use limiter::IdentityProblem;
use limiter::rules::{Identity, IdentityTerms, OnIdentityFailure};

use super::attributes::{Attributes, CheckRequest};
use crate::ports::identity::{Identified, Identities, KeyAnswer, Owner};

/// The attribute that holds the API key.
const KEY: &str = "api_key";
/// The attributes that a key sets.
const FROM_KEY: [&str; 3] = ["user", "tier", "key_id"];

/// What a node knows of the identity of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identification {
    /// Limits decide the check. A problem is shown in the answer.
    Proceed(Option<IdentityProblem>),
    /// The check is denied without asking a limit.
    Denied(IdentityProblem),
    /// An application sends an attribute that only a key may set: the descriptor and the attribute.
    Conflict(usize, &'static str),
}

/// The API keys of a check: what the node knows of each, or is looking up.
pub struct AskedKeys {
    /// What its domain said when they were asked for.
    pub terms: IdentityTerms,
    /// The position of a descriptor, and the answer about its key.
    keys: Vec<(usize, Identified)>,
}

/// Asks for the API keys of a check, as its domain says. Each is waited for at most `wait`.
///
/// # Errors
/// The outcome of a check that needs no key.
pub fn ask(
    identities: &dyn Identities,
    terms: IdentityTerms,
    request: &CheckRequest,
    wait: Duration,
) -> Result<AskedKeys, Identification> {
    if terms.identity == Identity::Caller {
        return Err(Identification::Proceed(None));
    }
    let of_gateway = request.is_of_gateway();
    let mut keyed: Vec<(usize, &str)> = Vec::new();
    for (at, attributes) in request.attributes().enumerate() {
        let mut keys = attributes.0.iter().filter(|(name, _)| name == KEY).map(|(_, value)| value);
        let Some(key) = keys.next() else { continue };
        // Which of several keys would count is not for a node to guess.
        if keys.any(|other| other != key) {
            return Err(Identification::Denied(IdentityProblem::Conflict));
        }
        // An empty key is none.
        if !key.is_empty() {
            keyed.push((at, key));
        }
    }
    if terms.identity == Identity::Key || !keyed.is_empty() {
        for (at, attributes) in request.attributes().enumerate() {
            let given = |name: &&str| attributes.0.iter().any(|(given, _)| given == name);
            if let Some(name) = FROM_KEY.into_iter().find(given) {
                // A gateway's client must not cause an error: some gateways let a request pass then.
                return Err(if of_gateway {
                    Identification::Denied(IdentityProblem::Conflict)
                } else {
                    Identification::Conflict(at, name)
                });
            }
        }
    }
    if keyed.is_empty() {
        return Err(match terms.identity {
            Identity::Key => Identification::Denied(IdentityProblem::MissingKey),
            Identity::Caller | Identity::Either => Identification::Proceed(None),
        });
    }
    let keys = keyed.into_iter().map(|(at, key)| (at, identities.identify(key, wait))).collect();
    Ok(AskedKeys { terms, keys })
}

impl AskedKeys {
    /// True if the node knows every key.
    pub fn are_known(&self) -> bool {
        self.keys.iter().all(|(_, answer)| matches!(answer, Identified::Now(_)))
    }

    /// Waits until the node knows every key, or has waited for it as long as it may.
    pub async fn wait(&mut self) {
        let wait = async |answer: &mut Identified| {
            if let Identified::Later { looked_up, .. } = answer {
                *answer = Identified::Now(looked_up.await);
            }
        };
        join_all(self.keys.iter_mut().map(|(_, answer)| wait(answer))).await;
    }

    /// Sets what the keys say. Of a key that was not waited for, what is known from longer ago counts.
    pub fn identify(self, request: &mut CheckRequest) -> Identification {
        let mut problem = None;
        for (at, answer) in self.keys {
            let (Identified::Now(answer) | Identified::Later { without: answer, .. }) = answer;
            let found = match answer {
                KeyAnswer::Valid(owner) => {
                    if let Some(attributes) = request.attributes_mut(at) {
                        set(attributes, owner);
                    }
                    continue;
                }
                KeyAnswer::Unknown => IdentityProblem::UnknownKey,
                KeyAnswer::Expired => IdentityProblem::ExpiredKey,
                KeyAnswer::Revoked => IdentityProblem::RevokedKey,
                KeyAnswer::Unavailable if self.terms.on_failure == OnIdentityFailure::Allow => {
                    if let Some(attributes) = request.attributes_mut(at) {
                        forget_key(attributes);
                    }
                    problem = Some(IdentityProblem::Unavailable);
                    continue;
                }
                KeyAnswer::Unavailable => IdentityProblem::Unavailable,
            };
            return Identification::Denied(found);
        }
        Identification::Proceed(problem)
    }
}

fn forget_key(attributes: &mut Attributes) {
    attributes.0.retain(|(name, _)| name != KEY);
}

/// Replaces the key by its id, and adds what it sets, at the end.
fn set(attributes: &mut Attributes, owner: Owner) {
    let Owner { user, tier, key_id } = owner;
    for (name, value) in &mut attributes.0 {
        if name == KEY {
            value.clone_from(&key_id);
        }
    }
    let set = [Some(("user", user)), tier.map(|tier| ("tier", tier)), Some(("key_id", key_id))];
    attributes.0.extend(set.into_iter().flatten().map(|(name, value)| (name.to_owned(), value)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::attributes::{DescriptorRequest, Field};

    /// Knows keys by what they are called.
    struct ByName;

    impl Identities for ByName {
        fn identify(&self, key: &str, _: Duration) -> Identified {
            let answer = match key {
                "valid" => KeyAnswer::Valid(Owner {
                    user: "u1".to_owned(),
                    tier: Some("gold".to_owned()),
                    key_id: "k1".to_owned(),
                }),
                "expired" => KeyAnswer::Expired,
                "revoked" => KeyAnswer::Revoked,
                "away" => KeyAnswer::Unavailable,
                _ => KeyAnswer::Unknown,
            };
            Identified::Later { looked_up: Box::pin(std::future::ready(answer)), without: KeyAnswer::Unavailable }
        }
    }

    const fn terms(identity: Identity) -> IdentityTerms {
        IdentityTerms { identity, on_failure: OnIdentityFailure::Deny }
    }

    /// Identifies a check with these descriptors. Returns the outcome and the attributes afterwards.
    async fn run(
        terms: IdentityTerms,
        of_gateway: bool,
        descriptors: &[&[(&str, &str)]],
    ) -> (Identification, Vec<Vec<(String, String)>>) {
        let owned = |all: &&[(&str, &str)]| {
            let attributes: Vec<_> = all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            DescriptorRequest::unordered(attributes, 1)
        };
        let (domain, descriptors) = ("d".to_owned(), descriptors.iter().map(owned).collect());
        let place = |_: Field<'_>| String::new();
        let request = match of_gateway {
            true => CheckRequest::from_gateway(domain, descriptors, Vec::new(), place),
            false => CheckRequest::new(domain, descriptors, Vec::new(), place),
        };
        let mut request = request.unwrap();
        let outcome = match ask(&ByName, terms, &request, Duration::ZERO) {
            Ok(mut keys) => {
                assert!(!keys.are_known());
                keys.wait().await;
                assert!(keys.are_known());
                keys.identify(&mut request)
            }
            Err(outcome) => outcome,
        };
        (outcome, request.attributes().map(|attributes| attributes.0.clone()).collect())
    }

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[tokio::test]
    async fn a_valid_key_sets_its_owner_and_goes_no_further() {
        for identity in [Identity::Key, Identity::Either] {
            let (outcome, attributes) =
                run(terms(identity), false, &[&[("api_key", "valid"), ("path", "/")], &[("ip", "::1")]]).await;
            assert_eq!(outcome, Identification::Proceed(None));
            let first = [("api_key", "k1"), ("path", "/"), ("user", "u1"), ("tier", "gold"), ("key_id", "k1")];
            assert_eq!(attributes, [pairs(&first), pairs(&[("ip", "::1")])]);
        }
        let given = [("api_key", "valid"), ("user", "me")];
        let (outcome, attributes) = run(terms(Identity::Caller), false, &[&given]).await;
        assert_eq!((outcome, attributes), (Identification::Proceed(None), vec![pairs(&given)]));
    }

    #[tokio::test]
    async fn a_key_that_is_not_valid_is_denied_with_its_reason() {
        let cases = [
            ("nobody", IdentityProblem::UnknownKey),
            ("expired", IdentityProblem::ExpiredKey),
            ("revoked", IdentityProblem::RevokedKey),
            ("away", IdentityProblem::Unavailable),
        ];
        for (key, problem) in cases {
            let (outcome, _) = run(terms(Identity::Either), false, &[&[("api_key", key)]]).await;
            assert_eq!(outcome, Identification::Denied(problem), "{key}");
        }
    }

    #[tokio::test]
    async fn a_check_without_a_key_is_denied_only_where_one_is_required() {
        for given in [&[("user", "me")][..], &[("user", "me"), ("api_key", "")]] {
            // An empty key is none, but what only a key may set is then a conflict if the key is there at all.
            let (outcome, _) = run(terms(Identity::Key), true, &[given]).await;
            assert!(matches!(outcome, Identification::Denied(_)), "{outcome:?}");
        }
        let (outcome, attributes) = run(terms(Identity::Either), false, &[&[("user", "me")]]).await;
        assert_eq!((outcome, attributes), (Identification::Proceed(None), vec![pairs(&[("user", "me")])]));
        let (outcome, _) = run(terms(Identity::Key), false, &[&[("path", "/")]]).await;
        assert_eq!(outcome, Identification::Denied(IdentityProblem::MissingKey));
    }

    #[tokio::test]
    async fn what_a_key_sets_is_not_for_the_caller() {
        for name in FROM_KEY {
            let given = [("api_key", "valid"), (name, "spoofed")];
            let (outcome, _) = run(terms(Identity::Either), false, &[&[("path", "/")], &given]).await;
            assert_eq!(outcome, Identification::Conflict(1, name));
            let (outcome, _) = run(terms(Identity::Either), true, &[&given]).await;
            assert_eq!(outcome, Identification::Denied(IdentityProblem::Conflict), "a gateway gets no error");
        }
        let two = [("api_key", "nobody"), ("api_key", "valid")];
        let (outcome, _) = run(terms(Identity::Key), true, &[&two]).await;
        assert_eq!(outcome, Identification::Denied(IdentityProblem::Conflict));
    }

    #[tokio::test]
    async fn a_domain_may_allow_a_key_that_cannot_be_looked_up() {
        let allow = IdentityTerms { identity: Identity::Key, on_failure: OnIdentityFailure::Allow };
        let (outcome, attributes) = run(allow, true, &[&[("api_key", "away"), ("path", "/")]]).await;
        assert_eq!(outcome, Identification::Proceed(Some(IdentityProblem::Unavailable)));
        assert_eq!(attributes, [pairs(&[("path", "/")])], "limits decide without the key, which goes no further");
        let (outcome, _) = run(allow, true, &[&[("api_key", "nobody")]]).await;
        assert_eq!(outcome, Identification::Denied(IdentityProblem::UnknownKey));
    }
}
