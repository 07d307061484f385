//! Merges a file, the environment and flags into one tree. [`Overlay::origin`] says where a value comes from.

use std::fmt;
use std::rc::Rc;

use crate::yaml::tree::{Node, Place, Style, SyntaxError, Value};
use limiter::rules::Path;

/// The prefix of environment variables that are settings.
pub const PREFIX: &str = "TIDEGATE_";

/// The variable that holds the admin token of a command. It is no setting of a node.
pub const TOKEN: &str = "TIDEGATE_TOKEN";

/// A setting from the environment or a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `TIDEGATE_STORE__URL`, `--http`.
    pub origin: String,
    pub path: Vec<String>,
    pub text: String,
}

impl Setting {
    /// The setting of an environment variable; `None` if its name has another prefix.
    pub fn from_environment(name: &str, value: &str) -> Option<Self> {
        if name == TOKEN {
            return None;
        }
        let path = name.strip_prefix(PREFIX)?.split("__").map(str::to_lowercase).collect();
        Some(Self { origin: name.to_owned(), path, text: value.to_owned() })
    }

    /// The setting of a flag. The parts of `path` are separated by dots.
    pub fn from_flag(flag: &str, path: &str, value: impl fmt::Display) -> Self {
        let path = path.split('.').map(ToOwned::to_owned).collect();
        Self { origin: flag.to_owned(), path, text: value.to_string() }
    }
}

/// The settings of all sources in one tree.
#[derive(Debug)]
pub struct Overlay {
    pub root: Rc<Node>,
    /// The name of the file, if there is one.
    file: Option<String>,
    settings: Vec<Setting>,
}

impl Overlay {
    /// Lays `settings` over the file. A later setting takes precedence over an earlier one.
    ///
    /// # Errors
    /// When the file is not YAML.
    pub fn new(file: Option<(&str, &str)>, settings: Vec<Setting>) -> Result<Self, SyntaxError> {
        let mut root = Node::parse(file.map_or("", |(_, text)| text))?;
        for setting in &settings {
            put(Rc::make_mut(&mut root), &setting.path, &setting.text);
        }
        Ok(Self { root, file: file.map(|(name, _)| name.to_owned()), settings })
    }

    /// The origin of the value at `path`, or the place where it should be if there is none.
    pub fn origin(&self, path: &Path) -> String {
        let text = path.to_string();
        let sets = |setting: &&Setting| {
            let own = setting.path.join(".");
            text == own || text.strip_prefix(&own).is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        if let Some(setting) = self.settings.iter().rev().find(sets) {
            return setting.origin.clone();
        }
        match &self.file {
            Some(file) => {
                let Place { line, column } = self.root.place_of(path);
                format!("{file}:{line}:{column}")
            }
            None => format!("{PREFIX}{}", text.to_uppercase().replace('.', "__")),
        }
    }
}

fn put(node: &mut Node, path: &[String], text: &str) {
    let Some((first, rest)) = path.split_first() else {
        node.value = Value::Scalar { text: text.to_owned(), style: Style::Untyped };
        return;
    };
    if !matches!(node.value, Value::Map(_)) {
        node.value = Value::Map(Vec::new());
    }
    let place = node.place;
    if let Value::Map(entries) = &mut node.value {
        if !entries.iter().any(|(key, ..)| key == first) {
            let empty = Rc::new(Node { place, value: Value::Map(Vec::new()) });
            entries.push((first.clone(), place, empty));
        }
        if let Some((.., inner)) = entries.iter_mut().find(|(key, ..)| key == first) {
            put(Rc::make_mut(inner), rest, text);
        }
    }
}
