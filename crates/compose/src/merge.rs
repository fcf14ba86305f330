//! Puts several Compose files into one tree.
//!
//! Specification: <https://github.com/compose-spec/compose-spec/blob/main/13-merge.md>. Mappings
//! are merged key by key, lists are appended, and the exceptions are in [`rule`].

use std::collections::HashMap;

use crate::node::{Entry, MergeTag, Node, Value};
use crate::ports;
use crate::volumes;

/// How the value of a later file meets the one of an earlier file.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// The default: mappings merged, lists appended, anything else replaced.
    Merge,
    Replace,
    /// A list of `NAME=value` is a mapping.
    Dictionary,
    /// A list of names is a mapping of nothing.
    Names,
    /// A list of names is a mapping to the default condition.
    Dependencies,
    /// A mapping is a list of `name=address`.
    Hosts,
    /// A string is a list of one; lists are appended, equal items once.
    List,
    /// A string is `{context: …}`.
    Build,
    /// The later item with the same key takes the place of the earlier.
    Unique(fn(&Node) -> Option<String>),
}

fn rule(path: &[&str]) -> Rule {
    match path {
        ["services", _, rest @ ..] => service_rule(rest),
        ["networks" | "volumes" | "configs" | "secrets", _, "labels"] => Rule::Dictionary,
        ["networks", _, "ipam", "config"] => Rule::Unique(|item| key_of(item, "subnet")),
        _ => Rule::Merge,
    }
}

fn service_rule(path: &[&str]) -> Rule {
    match path {
        ["command" | "entrypoint"] | ["healthcheck", "test"] => Rule::Replace,
        ["environment" | "labels" | "annotations" | "sysctls"]
        | ["build", "args" | "labels" | "additional_contexts" | "ssh"]
        | ["deploy", "labels"] => Rule::Dictionary,
        ["networks" | "models"] => Rule::Names,
        ["depends_on"] => Rule::Dependencies,
        ["extra_hosts"] => Rule::Hosts,
        ["build"] => Rule::Build,
        ["env_file"]
        | ["dns" | "dns_search" | "tmpfs" | "expose" | "cap_add" | "cap_drop"]
        | ["security_opt" | "profiles" | "dns_opt" | "links" | "group_add"]
        | ["networks", _, "aliases"] => Rule::List,
        ["ports"] => Rule::Unique(ports::merge_key),
        ["volumes"] => Rule::Unique(volumes::merge_key),
        ["configs" | "secrets"] => Rule::Unique(|item| {
            key_of(item, "target")
                .or_else(|| key_of(item, "source"))
                .or_else(|| item.text().map(str::to_owned))
        }),
        _ => Rule::Merge,
    }
}

fn key_of(item: &Node, key: &str) -> Option<String> {
    item.get(key)?.text().map(str::to_owned)
}

/// Merges `later` into `earlier`.
pub(crate) fn merge(earlier: Node, later: Node) -> Node {
    merge_at(earlier, later, &mut Vec::new())
}

/// Merges `later` into `earlier`, where both are services.
pub(crate) fn merge_service(earlier: Node, later: Node) -> Node {
    let mut path = vec!["services".to_owned(), "*".to_owned()];
    merge_at(earlier, later, &mut path)
}

/// Takes away what `!reset` names, where there was nothing to reset.
pub(crate) fn strip_resets(node: &mut Node) {
    match &mut node.value {
        Value::Mapping(entries) => {
            entries.retain(|entry| entry.value.tag != MergeTag::Reset);
            for entry in entries {
                strip_resets(&mut entry.value);
            }
        }
        Value::Sequence(items) => {
            items.retain(|item| item.tag != MergeTag::Reset);
            items.iter_mut().for_each(strip_resets);
        }
        Value::Scalar(_) | Value::Null => {}
    }
}

fn merge_at(earlier: Node, later: Node, path: &mut Vec<String>) -> Node {
    if later.tag != MergeTag::None || earlier.tag == MergeTag::Reset {
        return later;
    }
    let borrowed: Vec<&str> = path.iter().map(String::as_str).collect();
    let rule = rule(&borrowed);
    let (earlier, later) = match rule {
        Rule::Merge | Rule::Unique(_) => (earlier, later),
        Rule::Replace => return later,
        Rule::Dictionary => (dictionary(earlier), dictionary(later)),
        Rule::Names => (names(earlier), names(later)),
        Rule::Dependencies => (dependencies(earlier), dependencies(later)),
        Rule::Hosts => (hosts(earlier), hosts(later)),
        Rule::List => (list(earlier), list(later)),
        Rule::Build => (build(earlier), build(later)),
    };
    let (span, tag) = (later.span, earlier.tag);
    let value = match (earlier.value, later.value) {
        (Value::Mapping(earlier), Value::Mapping(later)) => {
            Value::Mapping(merge_entries(earlier, later, path))
        }
        (Value::Sequence(earlier), Value::Sequence(later)) => {
            Value::Sequence(merge_items(earlier, later, rule))
        }
        // `web:` with nothing below it in the later file changes nothing.
        (earlier @ (Value::Mapping(_) | Value::Sequence(_)), Value::Null) => earlier,
        (_, later) => later,
    };
    Node { span, tag, value }
}

fn merge_entries(mut earlier: Vec<Entry>, later: Vec<Entry>, path: &mut Vec<String>) -> Vec<Entry> {
    let mut places: HashMap<String, usize> = HashMap::with_capacity(earlier.len());
    for (index, entry) in earlier.iter().enumerate() {
        places.insert(entry.key.clone(), index);
    }
    for entry in later {
        let Some(index) = places.get(&entry.key) else {
            earlier.push(entry);
            continue;
        };
        let known = &mut earlier[*index];
        path.push(entry.key);
        let before = std::mem::replace(&mut known.value, Node::null(entry.value.span));
        known.value = merge_at(before, entry.value, path);
        known.key_span = entry.key_span;
        path.pop();
    }
    earlier
}

fn merge_items(mut earlier: Vec<Node>, later: Vec<Node>, rule: Rule) -> Vec<Node> {
    let identity = |item: &Node| match rule {
        Rule::Unique(key) => key(item),
        Rule::List | Rule::Hosts => item.text().map(str::to_owned),
        _ => None,
    };
    let mut places: HashMap<String, usize> = HashMap::new();
    for (index, item) in earlier.iter().enumerate() {
        if let Some(key) = identity(item) {
            places.insert(key, index);
        }
    }
    for item in later {
        let key = identity(&item);
        match key.as_ref().and_then(|key| places.get(key)) {
            Some(index) => earlier[*index] = item,
            None => {
                if let Some(key) = key {
                    places.insert(key, earlier.len());
                }
                earlier.push(item);
            }
        }
    }
    earlier
}

/// `[NAME=value, OTHER]` as `{NAME: value, OTHER: null}`; anything else as it is.
pub(crate) fn dictionary(node: Node) -> Node {
    let Value::Sequence(items) = node.value else {
        return node;
    };
    let mut entries: Vec<Entry> = Vec::with_capacity(items.len());
    for item in items {
        let Some(text) = item.text() else { continue };
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Node::string(item.span, value)),
            None => (text.to_owned(), Node::null(item.span)),
        };
        entries.push(Entry {
            key,
            key_span: item.span,
            value,
        });
    }
    Node {
        value: Value::Mapping(entries),
        ..node
    }
}

/// `[a, b]` as `{a: null, b: null}`.
pub(crate) fn names(node: Node) -> Node {
    let Value::Sequence(items) = node.value else {
        return node;
    };
    let entry = |item: Node| {
        let key = item.text()?.to_owned();
        Some(Entry {
            key,
            key_span: item.span,
            value: Node::null(item.span),
        })
    };
    Node {
        value: Value::Mapping(items.into_iter().filter_map(entry).collect()),
        ..node
    }
}

/// `[a]` as `{a: {condition: service_started}}`, which is what it means.
pub(crate) fn dependencies(node: Node) -> Node {
    let listed = matches!(node.value, Value::Sequence(_));
    let mut node = names(node);
    if let Value::Mapping(entries) = &mut node.value
        && listed
    {
        for entry in entries {
            let condition = Entry {
                key: "condition".to_owned(),
                key_span: entry.key_span,
                value: Node::string(entry.key_span, "service_started"),
            };
            entry.value = Node::mapping(entry.key_span, vec![condition]);
        }
    }
    node
}

/// `{name: address}` and `{name: [address, …]}` as a list of `name=address`.
pub(crate) fn hosts(node: Node) -> Node {
    let Value::Mapping(entries) = &node.value else {
        return node;
    };
    let mut items = Vec::new();
    for entry in entries {
        let addresses = match &entry.value.value {
            Value::Sequence(addresses) => addresses.as_slice(),
            _ => std::slice::from_ref(&entry.value),
        };
        for address in addresses {
            if let Some(text) = address.text() {
                items.push(Node::string(address.span, format!("{}={text}", entry.key)));
            }
        }
    }
    Node {
        value: Value::Sequence(items),
        ..node
    }
}

/// A string as a list of one.
pub(crate) fn list(node: Node) -> Node {
    let item = match &node.value {
        Value::Scalar(_) => Node {
            tag: MergeTag::None,
            ..node.clone()
        },
        _ => return node,
    };
    Node {
        value: Value::Sequence(vec![item]),
        ..node
    }
}

pub(crate) fn build(node: Node) -> Node {
    if !matches!(node.value, Value::Scalar(_)) {
        return node;
    }
    let (span, tag) = (node.span, node.tag);
    let entry = Entry {
        key: "context".to_owned(),
        key_span: span,
        value: Node {
            tag: MergeTag::None,
            ..node
        },
    };
    Node {
        tag,
        ..Node::mapping(span, vec![entry])
    }
}
