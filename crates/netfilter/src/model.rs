//! The parts of a table, in nft's own syntax where a value is opaque to us (rules, types, elements).

use std::collections::BTreeMap;
use std::fmt::{self, Write};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Ip,
    Ip6,
    Inet,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub family: Family,
    pub name: &'static str,
    /// Sets, maps and chains that are always there.
    pub base: Fragment,
}

/// A part of a table that comes and goes as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Name to declaration: `type ipv4_addr; flags dynamic,timeout;`.
    pub sets: BTreeMap<String, String>,
    /// Name to declaration: `type ipv4_addr . inet_service : verdict;`.
    pub maps: BTreeMap<String, String>,
    pub chains: BTreeMap<String, Chain>,
    /// (set or map, key) to the mapped value; None for the element of a set.
    pub elements: BTreeMap<(String, String), Option<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// `type nat hook prerouting priority dstnat;` for a base chain.
    pub hook: Option<&'static str>,
    pub rules: Vec<String>,
}

impl Fragment {
    pub fn chain(&mut self, name: impl Into<String>, rules: Vec<String>) -> &mut Self {
        self.chains.insert(name.into(), Chain { hook: None, rules });
        self
    }

    pub fn hook(&mut self, name: impl Into<String>, hook: &'static str, rules: Vec<String>) -> &mut Self {
        self.chains.insert(name.into(), Chain { hook: Some(hook), rules });
        self
    }

    pub fn set(&mut self, name: impl Into<String>, declaration: impl Into<String>) -> &mut Self {
        self.sets.insert(name.into(), declaration.into());
        self
    }

    pub fn map(&mut self, name: impl Into<String>, declaration: impl Into<String>) -> &mut Self {
        self.maps.insert(name.into(), declaration.into());
        self
    }

    pub fn element(&mut self, set: &str, key: impl Into<String>) -> &mut Self {
        self.elements.insert((set.to_owned(), key.into()), None);
        self
    }

    pub fn mapping(&mut self, map: &str, key: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.elements.insert((map.to_owned(), key.into()), Some(value.into()));
        self
    }
}

/// A transaction in nft's command syntax.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script(String);

impl Script {
    pub fn line(&mut self, line: fmt::Arguments<'_>) {
        self.0.write_fmt(line).expect("a String takes what is written");
        self.0.push('\n');
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}
