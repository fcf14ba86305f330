//! Values as bytes: little-endian integers, length-prefixed texts and lists.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

/// What is wrong with bytes that do not decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "malformed frame: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// A value that has a form on the wire.
pub trait Wire: Sized {
    fn encode(&self, bytes: &mut Vec<u8>);

    /// Takes the value from the front of `bytes`.
    ///
    /// # Errors
    /// If the bytes end too early or mean nothing. Never allocates more than `bytes` holds.
    fn decode(bytes: &mut &[u8]) -> Result<Self, Malformed>;
}

/// Takes `count` bytes from the front.
pub(crate) fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = bytes
        .split_at_checked(count)
        .ok_or(Malformed("it ends too early"))?;
    *bytes = rest;
    Ok(taken)
}

macro_rules! wire_integer {
    ($($integer:ty),*) => {$(
        impl Wire for $integer {
            fn encode(&self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }

            fn decode(bytes: &mut &[u8]) -> Result<Self, Malformed> {
                let taken = take(bytes, size_of::<$integer>())?;
                let array = taken.try_into().map_err(|_| Malformed("it ends too early"))?;
                Ok(<$integer>::from_le_bytes(array))
            }
        }
    )*};
}

wire_integer!(u8, u16, u32, u64, i32);

impl Wire for bool {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(*self));
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        match u8::decode(bytes)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a truth value is neither 0 nor 1")),
        }
    }
}

impl Wire for String {
    fn encode(&self, bytes: &mut Vec<u8>) {
        (self.len() as u32).encode(bytes);
        bytes.extend_from_slice(self.as_bytes());
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let length = u32::decode(bytes)? as usize;
        let text = take(bytes, length)?;
        String::from_utf8(text.to_vec()).map_err(|_| Malformed("a text is not UTF-8"))
    }
}

impl<T: Wire> Wire for Box<T> {
    fn encode(&self, bytes: &mut Vec<u8>) {
        T::encode(self, bytes);
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        T::decode(bytes).map(Box::new)
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn encode(&self, bytes: &mut Vec<u8>) {
        (self.len() as u32).encode(bytes);
        for item in self {
            item.encode(bytes);
        }
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let length = u32::decode(bytes)? as usize;
        // Every item has at least one byte, so a length that lies cannot make us allocate.
        if length > bytes.len() {
            return Err(Malformed("a list is longer than its frame"));
        }
        let mut items = Vec::new();
        for _ in 0..length {
            items.push(T::decode(bytes)?);
        }
        Ok(items)
    }
}

impl<T: Wire> Wire for Option<T> {
    fn encode(&self, bytes: &mut Vec<u8>) {
        self.is_some().encode(bytes);
        if let Some(value) = self {
            value.encode(bytes);
        }
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        bool::decode(bytes)?.then(|| T::decode(bytes)).transpose()
    }
}

impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    fn encode(&self, bytes: &mut Vec<u8>) {
        (self.len() as u32).encode(bytes);
        for (key, value) in self {
            key.encode(bytes);
            value.encode(bytes);
        }
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let length = u32::decode(bytes)? as usize;
        let mut map = BTreeMap::new();
        for _ in 0..length {
            map.insert(K::decode(bytes)?, V::decode(bytes)?);
        }
        Ok(map)
    }
}

impl Wire for Ipv4Addr {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.octets());
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(Ipv4Addr::from(<[u8; 4]>::decode(bytes)?))
    }
}

impl<const N: usize> Wire for [u8; N] {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self);
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        take(bytes, N)?
            .try_into()
            .map_err(|_| Malformed("it ends too early"))
    }
}

/// Gives a struct its form on the wire: its fields in the order named.
macro_rules! wire_struct {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::codec::Wire for $name {
            fn encode(&self, bytes: &mut Vec<u8>) {
                $( $crate::codec::Wire::encode(&self.$field, bytes); )*
            }

            fn decode(bytes: &mut &[u8]) -> Result<Self, $crate::codec::Malformed> {
                Ok(Self { $( $field: $crate::codec::Wire::decode(bytes)?, )* })
            }
        }
    };
}

/// Gives an enum its form on the wire: a byte that names the variant, then its fields.
macro_rules! wire_enum {
    ($name:ident { $($tag:literal => $variant:ident { $($field:ident),* $(,)? }),* $(,)? }) => {
        impl $crate::codec::Wire for $name {
            fn encode(&self, bytes: &mut Vec<u8>) {
                match self {
                    $( Self::$variant { $($field),* } => {
                        bytes.push($tag);
                        $( $crate::codec::Wire::encode($field, bytes); )*
                    } )*
                }
            }

            fn decode(bytes: &mut &[u8]) -> Result<Self, $crate::codec::Malformed> {
                match <u8 as $crate::codec::Wire>::decode(bytes)? {
                    $( $tag => Ok(Self::$variant {
                        $( $field: $crate::codec::Wire::decode(bytes)?, )*
                    }), )*
                    _ => Err($crate::codec::Malformed("an unknown kind")),
                }
            }
        }
    };
}

pub(crate) use {wire_enum, wire_struct};
