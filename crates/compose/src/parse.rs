//! Text to tree: YAML with anchors, aliases and merge keys resolved.
//!
//! Invariant: whatever the bytes are, work and memory are bounded by the limits below; nothing
//! here recurses deeper than [`MAXIMUM_DEPTH`].

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use crate::node::{Entry, MergeTag, Node, Scalar, Style, Value};
use crate::source::{Source, Sources, Span};

/// Largest file that is read, in bytes.
pub(crate) const MAXIMUM_SIZE: u64 = 4 << 20;
/// How deep mappings and sequences may be nested, aliases followed.
const MAXIMUM_DEPTH: usize = 64;
/// How many nodes a file may have, aliases followed: what stops an alias bomb.
pub(crate) const MAXIMUM_NODES: usize = 200_000;

/// A node that an anchor names.
struct Anchored {
    node: Node,
    size: usize,
    depth: usize,
}

/// A mapping or sequence whose end has not been seen.
struct Open {
    anchor: usize,
    node: Node,
    /// For a mapping: the key that waits for its value.
    key: Option<(Node, bool)>,
    /// Keys of a mapping so far with their lines, so that a large mapping takes linear time.
    keys: HashMap<String, u32>,
    merges: Vec<Node>,
    size: usize,
    depth: usize,
}

struct Builder<'a> {
    file: u32,
    sources: &'a mut Sources,
    anchors: HashMap<usize, Anchored>,
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
}

/// Ends the reading of a file: the error has been reported.
struct Stop;

/// Reads one file of YAML. `None` if it cannot be read as YAML at all; everything that is wrong
/// with it is reported. An empty file is a null node.
pub(crate) fn parse(file: u32, sources: &mut Sources) -> Option<Node> {
    let text = sources.get(file)?.text.clone();
    let mut builder = Builder {
        file,
        sources,
        anchors: HashMap::new(),
        open: Vec::new(),
        root: None,
        nodes: 0,
    };
    builder.run(&text).ok()?;
    let empty = Node::null(Span {
        file,
        line: 1,
        column: 1,
        length: 1,
    });
    Some(builder.root.unwrap_or(empty))
}

impl Builder<'_> {
    fn run(&mut self, text: &str) -> Result<(), Stop> {
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let (event, span) = match event {
                Ok(found) => found,
                Err(error) => {
                    let position = self.span(*error.marker(), None);
                    let message = match error.info() {
                        // The scanner has a limit of its own, on brackets.
                        "recursion limit exceeded" => {
                            format!("nested deeper than {MAXIMUM_DEPTH} levels")
                        }
                        info => format!("not valid YAML: {info}"),
                    };
                    return Err(
                        match tab_in_indentation(self.sources.get(self.file), position) {
                            Some(tab) => self.stop_with_help(
                                tab,
                                "not valid YAML: a tab in the indentation",
                                "indent with spaces",
                            ),
                            None => self.stop(position, message),
                        },
                    );
                }
            };
            let position = self.span(span.start, Some(span.end));
            self.event(event, position)?;
        }
        Ok(())
    }

    fn event(&mut self, event: Event<'_>, position: Span) -> Result<(), Stop> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let node = self.scalar(text, style, tag, position)?;
                self.complete(node, anchor, 1, 0)
            }
            Event::SequenceStart(anchor, tag) => {
                self.begin(anchor, tag, Value::Sequence(Vec::new()), position)
            }
            Event::MappingStart(anchor, tag) => {
                self.begin(anchor, tag, Value::Mapping(Vec::new()), position)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => self.alias(anchor, position),
            Event::DocumentStart(_) if self.root.is_some() => Err(self.stop_with_help(
                position,
                "more than one YAML document in the file",
                "split it into files and pass each with -f",
            )),
            _ => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        tag: Option<Cow<'_, Tag>>,
        position: Span,
    ) -> Result<Node, Stop> {
        let (merge_tag, forced) = self.tag(tag.as_deref(), position)?;
        let style = forced.unwrap_or(match style {
            ScalarStyle::Plain => Style::Plain,
            _ => Style::Quoted,
        });
        let null = style == Style::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
        let value = if null {
            Value::Null
        } else {
            Value::Scalar(Scalar {
                text: text.into_owned(),
                style,
            })
        };
        Ok(Node {
            span: position,
            tag: merge_tag,
            value,
        })
    }

    /// What a tag means: how to merge, and whether a scalar is a string or read by its look.
    fn tag(
        &mut self,
        tag: Option<&Tag>,
        position: Span,
    ) -> Result<(MergeTag, Option<Style>), Stop> {
        let Some(tag) = tag else {
            return Ok((MergeTag::None, None));
        };
        let core = tag.is_yaml_core_schema();
        Ok(match (core, tag.handle.as_str(), tag.suffix.as_str()) {
            (true, _, "str") => (MergeTag::None, Some(Style::Quoted)),
            (true, _, "int" | "float" | "bool" | "null") => (MergeTag::None, Some(Style::Plain)),
            (true, _, "map" | "seq") | (false, "", "!") => (MergeTag::None, None),
            (false, "!", "reset") => (MergeTag::Reset, None),
            (false, "!", "override") => (MergeTag::Override, None),
            (_, handle, suffix) => {
                return Err(self.stop_with_help(
                    position,
                    format!("unknown YAML tag '{handle}{suffix}'"),
                    "Compose knows !reset and !override",
                ));
            }
        })
    }

    fn begin(
        &mut self,
        anchor: usize,
        tag: Option<Cow<'_, Tag>>,
        value: Value,
        position: Span,
    ) -> Result<(), Stop> {
        if self.open.len() >= MAXIMUM_DEPTH {
            return Err(self.stop(
                position,
                format!("nested deeper than {MAXIMUM_DEPTH} levels"),
            ));
        }
        let (tag, _) = self.tag(tag.as_deref(), position)?;
        self.open.push(Open {
            anchor,
            node: Node {
                span: position,
                tag,
                value,
            },
            key: None,
            keys: HashMap::new(),
            merges: Vec::new(),
            size: 1,
            depth: 1,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Stop> {
        let Some(mut open) = self.open.pop() else {
            return Ok(());
        };
        if !open.merges.is_empty() {
            self.merge_keys(&mut open)?;
        }
        self.complete(open.node, open.anchor, open.size, open.depth)
    }

    fn alias(&mut self, anchor: usize, position: Span) -> Result<(), Stop> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(self.stop(position, "an alias inside the very node that it names"));
        };
        let (node, size, depth) = (anchored.node.clone(), anchored.size, anchored.depth);
        if self.open.len() + depth > MAXIMUM_DEPTH {
            return Err(self.stop(
                position,
                format!("nested deeper than {MAXIMUM_DEPTH} levels, aliases followed"),
            ));
        }
        // Counted before it is copied again: the bound must hold at every moment.
        self.count(size, position)?;
        self.nodes -= 1;
        self.complete(node, 0, size, depth)
    }

    fn count(&mut self, nodes: usize, position: Span) -> Result<(), Stop> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAXIMUM_NODES {
            return Err(self.stop(
                position,
                format!("more than {MAXIMUM_NODES} nodes, aliases followed"),
            ));
        }
        Ok(())
    }

    /// A node is whole: hands it to what contains it.
    fn complete(
        &mut self,
        node: Node,
        anchor: usize,
        size: usize,
        depth: usize,
    ) -> Result<(), Stop> {
        self.count(1, node.span)?;
        if anchor != 0 {
            // The copy counts as well.
            self.count(size, node.span)?;
            let anchored = Anchored {
                node: node.clone(),
                size,
                depth,
            };
            self.anchors.insert(anchor, anchored);
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.size += size;
        open.depth = open.depth.max(depth + 1);
        let entries = match &mut open.node.value {
            Value::Sequence(items) => {
                items.push(node);
                return Ok(());
            }
            Value::Mapping(entries) => entries,
            Value::Null | Value::Scalar(_) => return Ok(()),
        };
        let Some((key, merge)) = open.key.take() else {
            let merge = matches!(&node.value, Value::Scalar(scalar)
                if scalar.style == Style::Plain && scalar.text == "<<");
            let text = match &node.value {
                Value::Scalar(_) => node.text(),
                Value::Null => Some("null"),
                Value::Sequence(_) | Value::Mapping(_) => None,
            };
            match text {
                Some(_) if merge => {}
                Some(text) => match open.keys.get(text) {
                    None => {
                        open.keys.insert(text.to_owned(), node.span.line);
                    }
                    Some(first) => {
                        let help = format!("it is already defined in line {first}");
                        let message = format!("duplicate key '{text}'");
                        self.sources.error_with_help(node.span, message, help);
                    }
                },
                None => {
                    self.sources
                        .error(node.span, "a key must be a string, not a list or a mapping");
                }
            }
            open.key = Some((node, merge));
            return Ok(());
        };
        if merge {
            open.merges.push(node);
        } else {
            let name = match key.value {
                Value::Scalar(scalar) => scalar.text,
                _ => "null".to_owned(),
            };
            entries.push(Entry {
                key: name,
                key_span: key.span,
                value: node,
            });
        }
        Ok(())
    }

    /// `<<: *a` and `<<: [*a, *b]`: fills in what the mapping and the earlier ones do not say.
    fn merge_keys(&mut self, open: &mut Open) -> Result<(), Stop> {
        let Value::Mapping(entries) = &mut open.node.value else {
            return Ok(());
        };
        for merged in std::mem::take(&mut open.merges) {
            let span = merged.span;
            let parts = match merged.value {
                Value::Sequence(items) => items,
                _ => vec![merged],
            };
            for part in parts {
                let Value::Mapping(more) = part.value else {
                    self.sources
                        .error(span, "'<<' takes a mapping or a list of mappings");
                    continue;
                };
                for entry in more {
                    if !open.keys.contains_key(&entry.key) {
                        open.keys.insert(entry.key.clone(), entry.key_span.line);
                        entries.push(entry);
                    }
                }
            }
        }
        Ok(())
    }

    fn stop(&mut self, span: Span, message: impl Into<String>) -> Stop {
        self.sources.error(span, message);
        Stop
    }

    fn stop_with_help(&mut self, span: Span, message: impl Into<String>, help: &str) -> Stop {
        self.sources.error_with_help(span, message, help);
        Stop
    }

    fn span(&self, start: Marker, end: Option<Marker>) -> Span {
        let same_line = end.filter(|end| end.line() == start.line());
        let length = match (end, same_line) {
            (_, Some(end)) => end.col().saturating_sub(start.col()),
            // The rest of the line; cut to it where it is shown.
            (Some(_), None) => u32::MAX as usize,
            (None, None) => 1,
        };
        Span {
            file: self.file,
            line: start.line() as u32,
            column: start.col() as u32 + 1,
            length: length.clamp(1, u32::MAX as usize) as u32,
        }
    }
}

/// The tab that a line up to `position` is indented with.
fn tab_in_indentation(source: Option<&Source>, position: Span) -> Option<Span> {
    let source = source?;
    (position.line.saturating_sub(1)..=position.line).find_map(|number| {
        let line = source.line(number);
        let blank = line.find(|c: char| c != ' ')?;
        line[blank..].starts_with('\t').then_some(Span {
            line: number,
            column: blank as u32 + 1,
            length: 1,
            ..position
        })
    })
}
