//! Reads tables, chains and the comments of rules from the kernel, over nfnetlink: quick enough to
//! look before every change, where starting `nft` is not.

use std::io;

use crate::netlink::{Message, Reply, Socket, attributes, number, text};

const NFNL_SUBSYS_NFTABLES: u16 = 10 << 8;
const NFT_MSG_GETTABLE: u16 = NFNL_SUBSYS_NFTABLES | 1;
const NFT_MSG_GETCHAIN: u16 = NFNL_SUBSYS_NFTABLES | 4;
const NFT_MSG_GETRULE: u16 = NFNL_SUBSYS_NFTABLES | 7;
const NFPROTO_IPV4: u8 = 2;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_USERDATA: u16 = 6;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_USERDATA: u16 = 7;
/// `NFTNL_UDATA_TABLE_COMMENT` and `NFTNL_UDATA_RULE_COMMENT` of libnftnl.
const USERDATA_COMMENT: u8 = 0;

/// A table of family `ip`.
#[derive(Debug)]
pub struct Table {
    pub name: String,
    pub comment: Option<String>,
}

/// A rule of a chain, as far as we read it.
#[derive(Debug)]
pub struct Rule {
    pub handle: u64,
    pub comment: Option<String>,
    /// The whole of it, as the kernel tells it.
    bytes: Vec<u8>,
}

impl Rule {
    /// Whether the rule has this text in it anywhere: the comments of `iptables` are not where
    /// those of `nft` are.
    pub fn mentions(&self, text: &str) -> bool {
        self.bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }
}

/// A connection to the packet filter, of the namespace in which it was opened.
#[derive(Debug)]
pub struct Netfilter {
    socket: Socket,
}

impl Netfilter {
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            socket: Socket::netfilter()?,
        })
    }

    pub fn tables(&mut self) -> io::Result<Vec<Table>> {
        let replies = self.socket.dump(request(NFT_MSG_GETTABLE))?;
        Ok(replies.iter().filter_map(parse_table).collect())
    }

    /// `None` if there is no such table.
    pub fn table(&mut self, name: &str) -> io::Result<Option<Table>> {
        let request = request(NFT_MSG_GETTABLE).text(NFTA_TABLE_NAME, name);
        let reply = absent_is_none(self.socket.get(request))?;
        Ok(reply.as_ref().and_then(parse_table))
    }

    /// Whether the chain's policy is to drop; `None` if there is no such chain.
    pub fn chain_drops(&mut self, table: &str, chain: &str) -> io::Result<Option<bool>> {
        let request = request(NFT_MSG_GETCHAIN)
            .text(NFTA_CHAIN_TABLE, table)
            .text(NFTA_CHAIN_NAME, chain);
        let Some(reply) = absent_is_none(self.socket.get(request))? else {
            return Ok(None);
        };
        let policy = family_attributes(&reply)
            .find(|(kind, _)| *kind == NFTA_CHAIN_POLICY)
            .and_then(|(_, value)| number(value));
        // Policies are verdicts: 0 is drop, 1 is accept.
        Ok(Some(policy.map(u32::from_be) == Some(0)))
    }

    /// The rules of a chain, in order; none if there is no such chain.
    pub fn rules(&mut self, table: &str, chain: &str) -> io::Result<Vec<Rule>> {
        let request = request(NFT_MSG_GETRULE)
            .text(NFTA_RULE_TABLE, table)
            .text(NFTA_RULE_CHAIN, chain);
        let replies = match self.socket.dump(request) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
            other => other?,
        };
        Ok(replies
            .iter()
            .filter_map(|reply| parse_rule(reply, table, chain))
            .collect())
    }
}

fn request(kind: u16) -> Message {
    // `struct nfgenmsg`: family, version, resource id.
    Message::new(kind, 0).raw(&[NFPROTO_IPV4, 0, 0, 0])
}

fn absent_is_none(answer: io::Result<Option<Reply>>) -> io::Result<Option<Reply>> {
    match answer {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        other => other,
    }
}

fn family_attributes(reply: &Reply) -> impl Iterator<Item = (u16, &[u8])> {
    attributes(reply.payload.get(4..).unwrap_or_default())
}

fn parse_table(reply: &Reply) -> Option<Table> {
    if reply.payload.first() != Some(&NFPROTO_IPV4) {
        return None;
    }
    let mut table = Table {
        name: String::new(),
        comment: None,
    };
    for (kind, value) in family_attributes(reply) {
        match kind {
            NFTA_TABLE_NAME => table.name = text(value),
            NFTA_TABLE_USERDATA => table.comment = comment(value),
            _ => {}
        }
    }
    Some(table)
}

fn parse_rule(reply: &Reply, table: &str, chain: &str) -> Option<Rule> {
    let mut rule = Rule {
        handle: 0,
        comment: None,
        bytes: reply.payload.clone(),
    };
    // Kernels before 5.2 ignore what a dump was asked to be limited to.
    for (kind, value) in family_attributes(reply) {
        match kind {
            NFTA_RULE_TABLE if text(value) != table => return None,
            NFTA_RULE_CHAIN if text(value) != chain => return None,
            NFTA_RULE_HANDLE => rule.handle = u64::from_be_bytes(value.try_into().ok()?),
            NFTA_RULE_USERDATA => rule.comment = comment(value),
            _ => {}
        }
    }
    Some(rule)
}

/// Finds the comment among the type-length-value items that `nft` keeps beside an object.
fn comment(userdata: &[u8]) -> Option<String> {
    let mut rest = userdata;
    while let [kind, length, tail @ ..] = rest {
        let value = tail.get(..usize::from(*length))?;
        if *kind == USERDATA_COMMENT {
            return Some(text(value));
        }
        rest = &tail[value.len()..];
    }
    None
}
