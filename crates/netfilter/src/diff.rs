//! From the fragments a table has to those it shall have, as the fewest commands in an order nft accepts.
//! Pure.

use crate::model::{Fragment, Script, Table};
use std::collections::{BTreeMap, HashMap};

type Element = (String, String);

/// The fragments of a table by owner, with who asks for which element: several owners may want the same
/// one (two services with one endpoint). The first in order of arrival has its say; the others follow when
/// it goes.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    fragments: BTreeMap<String, Fragment>,
    claims: HashMap<Element, Vec<String>>,
}

impl Owners {
    pub fn get(&self, owner: &str) -> Option<&Fragment> {
        self.fragments.get(owner)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.fragments.keys().map(String::as_str)
    }

    /// Replaces owners' fragments (None removes one) and gives the commands for it.
    pub fn update(&mut self, table: &Table, changes: Vec<(String, Option<Fragment>)>) -> Script {
        let mut step = Step::default();
        for (owner, new) in changes {
            let old = self.fragments.remove(&owner).unwrap_or_default();
            let new_ref = new.as_ref();
            step.declarations(&old, new_ref.unwrap_or(&Fragment::default()));
            self.claim(&owner, &old, new_ref.unwrap_or(&Fragment::default()), &mut step);
            if let Some(new) = new {
                self.fragments.insert(owner, new);
            }
        }
        step.script(table)
    }

    /// The whole table from nothing, in one transaction that also removes what an earlier process left.
    pub fn create(&self, table: &Table) -> Script {
        let mut step = Step::default();
        let nothing = Fragment::default();
        step.declarations(&nothing, &table.base);
        step.add.extend(table.base.elements.clone());
        for fragment in self.fragments.values() {
            step.declarations(&nothing, fragment);
        }
        for (element, owners) in &self.claims {
            if let Some(value) = self.value(element, owners) {
                step.add.insert(element.clone(), value);
            }
        }
        let mut script = Script::default();
        let (family, name) = (table.family, table.name);
        script.line(format_args!("add table {family} {name}"));
        script.line(format_args!("delete table {family} {name}"));
        script.line(format_args!("add table {family} {name}"));
        step.write(table, &mut script);
        script
    }

    fn value(&self, element: &Element, owners: &[String]) -> Option<Option<String>> {
        let owner = owners.first()?;
        self.fragments.get(owner)?.elements.get(element).cloned()
    }

    fn claim(&mut self, owner: &str, old: &Fragment, new: &Fragment, step: &mut Step) {
        for (element, value) in &old.elements {
            if new.elements.contains_key(element) {
                continue;
            }
            let Some(owners) = self.claims.get_mut(element) else { continue };
            let had_say = owners.first().is_some_and(|o| o == owner);
            owners.retain(|o| o != owner);
            let heir = owners.first().cloned();
            if heir.is_none() {
                self.claims.remove(element);
            }
            if had_say {
                let next = heir.and_then(|o| self.fragments.get(&o)?.elements.get(element).cloned());
                step.replace(element, Some(value), next.as_ref());
            }
        }
        for (element, value) in &new.elements {
            let owners = self.claims.entry(element.clone()).or_default();
            if !owners.iter().any(|o| o == owner) {
                owners.push(owner.to_owned());
            }
            if owners[0] == owner {
                step.replace(element, old.elements.get(element), Some(value));
            }
        }
    }
}

/// Commands sorted by what must come first.
#[derive(Default)]
struct Step {
    new_sets: BTreeMap<String, String>,
    new_maps: BTreeMap<String, String>,
    new_chains: BTreeMap<String, Option<&'static str>>,
    fill: BTreeMap<String, Vec<String>>,
    flush: Vec<String>,
    remove: BTreeMap<Element, Option<String>>,
    add: BTreeMap<Element, Option<String>>,
    gone_chains: Vec<String>,
    gone_sets: Vec<String>,
    gone_maps: Vec<String>,
}

impl Step {
    fn declarations(&mut self, old: &Fragment, new: &Fragment) {
        for (name, chain) in &new.chains {
            match old.chains.get(name) {
                None => {
                    self.new_chains.insert(name.clone(), chain.hook);
                    self.fill.insert(name.clone(), chain.rules.clone());
                }
                Some(was) if was.rules != chain.rules => {
                    self.flush.push(name.clone());
                    self.fill.insert(name.clone(), chain.rules.clone());
                }
                Some(_) => {}
            }
        }
        self.gone_chains.extend(old.chains.keys().filter(|n| !new.chains.contains_key(*n)).cloned());
        let fresh = |old: &BTreeMap<String, String>, new: &BTreeMap<String, String>| {
            new.iter()
                .filter(|(n, _)| !old.contains_key(*n))
                .map(|(n, d)| (n.clone(), d.clone()))
                .collect::<Vec<_>>()
        };
        self.new_sets.extend(fresh(&old.sets, &new.sets));
        self.new_maps.extend(fresh(&old.maps, &new.maps));
        self.gone_sets.extend(fresh(&new.sets, &old.sets).into_iter().map(|(n, _)| n));
        self.gone_maps.extend(fresh(&new.maps, &old.maps).into_iter().map(|(n, _)| n));
    }

    fn replace(&mut self, element: &Element, old: Option<&Option<String>>, new: Option<&Option<String>>) {
        if old == new {
            return;
        }
        // an owner may give up in this step what another one took earlier in it
        match (old, self.add.remove(element)) {
            (_, Some(_)) | (None, None) => {}
            (Some(value), None) => {
                self.remove.insert(element.clone(), value.clone());
            }
        }
        if let Some(value) = new {
            self.add.insert(element.clone(), value.clone());
        }
    }

    fn script(self, table: &Table) -> Script {
        let mut script = Script::default();
        self.write(table, &mut script);
        script
    }

    fn write(&self, table: &Table, script: &mut Script) {
        let at = format!("{} {}", table.family, table.name);
        for (name, declaration) in &self.new_sets {
            script.line(format_args!("add set {at} {name} {{ {declaration} }}"));
        }
        for (name, declaration) in &self.new_maps {
            script.line(format_args!("add map {at} {name} {{ {declaration} }}"));
        }
        for (name, hook) in &self.new_chains {
            match hook {
                Some(hook) => script.line(format_args!("add chain {at} {name} {{ {hook} }}")),
                None => script.line(format_args!("add chain {at} {name}")),
            }
        }
        for ((set, key), value) in &self.remove {
            // a map's element is deleted with its value: older nft asks for it
            match value {
                Some(value) => script.line(format_args!("delete element {at} {set} {{ {key} : {value} }}")),
                None => script.line(format_args!("delete element {at} {set} {{ {key} }}")),
            }
        }
        for name in self.flush.iter().chain(&self.gone_chains) {
            script.line(format_args!("flush chain {at} {name}"));
        }
        for (name, rules) in &self.fill {
            for rule in rules {
                script.line(format_args!("add rule {at} {name} {rule}"));
            }
        }
        for ((set, key), value) in &self.add {
            match value {
                Some(value) => script.line(format_args!("add element {at} {set} {{ {key} : {value} }}")),
                None => script.line(format_args!("add element {at} {set} {{ {key} }}")),
            }
        }
        for name in &self.gone_chains {
            script.line(format_args!("delete chain {at} {name}"));
        }
        for name in &self.gone_sets {
            script.line(format_args!("delete set {at} {name}"));
        }
        for name in &self.gone_maps {
            script.line(format_args!("delete map {at} {name}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;

    fn table() -> Table {
        let mut base = Fragment::default();
        base.map("services", "type ipv4_addr : verdict;");
        Table { family: Family::Ip, name: "t", base }
    }

    fn service(ip: &str, rules: &[&str]) -> Fragment {
        let mut f = Fragment::default();
        f.chain("svc", rules.iter().map(|r| (*r).to_owned()).collect());
        f.mapping("services", ip, "goto svc");
        f
    }

    fn lines(script: &Script) -> Vec<&str> {
        script.as_str().lines().collect()
    }

    #[test]
    fn a_changed_rule_touches_its_chain_and_nothing_else() {
        let mut owners = Owners::default();
        owners.update(&table(), vec![("a".into(), Some(service("10.0.0.1", &["accept"])))]);
        let script = owners.update(&table(), vec![("a".into(), Some(service("10.0.0.1", &["drop"])))]);
        assert_eq!(lines(&script), ["flush chain ip t svc", "add rule ip t svc drop"]);
        let again = owners.update(&table(), vec![("a".into(), Some(service("10.0.0.1", &["drop"])))]);
        assert!(again.is_empty());
    }

    #[test]
    fn an_owner_that_goes_leaves_nothing() {
        let mut owners = Owners::default();
        owners.update(&table(), vec![("a".into(), Some(service("10.0.0.1", &["accept"])))]);
        let script = owners.update(&table(), vec![("a".into(), None)]);
        assert_eq!(
            lines(&script),
            [
                "delete element ip t services { 10.0.0.1 : goto svc }",
                "flush chain ip t svc",
                "delete chain ip t svc"
            ]
        );
    }

    #[test]
    fn an_element_two_owners_want_stays_until_the_last_one_goes() {
        let mut shared = Fragment::default();
        shared.element("hairpin", "1.1.1.1");
        let mut owners = Owners::default();
        let first = owners
            .update(&table(), vec![("a".into(), Some(shared.clone())), ("b".into(), Some(shared.clone()))]);
        assert_eq!(lines(&first), ["add element ip t hairpin { 1.1.1.1 }"]);
        assert!(owners.update(&table(), vec![("a".into(), None)]).is_empty());
        let last = owners.update(&table(), vec![("b".into(), None)]);
        assert_eq!(lines(&last), ["delete element ip t hairpin { 1.1.1.1 }"]);
    }

    #[test]
    fn an_address_handed_from_one_owner_to_another_in_one_step_is_replaced() {
        let mut owners = Owners::default();
        let to = |chain: &str| {
            let mut f = Fragment::default();
            f.mapping("services", "10.0.0.1", format!("goto {chain}"));
            f
        };
        owners.update(&table(), vec![("a".into(), Some(to("x")))]);
        let script = owners.update(&table(), vec![("b".into(), Some(to("y"))), ("a".into(), None)]);
        assert_eq!(
            lines(&script),
            [
                "delete element ip t services { 10.0.0.1 : goto x }",
                "add element ip t services { 10.0.0.1 : goto y }"
            ]
        );
    }
}
