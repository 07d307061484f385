//! The identities of checks: API keys, looked up and cached.
