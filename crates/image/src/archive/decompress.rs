use std::io::{BufRead, BufReader, Read};

use bulkhead_model::{Error, Result};

use crate::failure::Context;

/// Undoes gzip, zstd or xz, recognised by the first bytes; anything else is passed through.
pub(crate) fn decompress<'a>(reader: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    let mut reader = BufReader::with_capacity(1 << 17, reader);
    let start = reader.fill_buf().context(|| "read the archive")?;
    let kind = kind(start);
    Ok(match kind {
        Kind::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Kind::Zstd => Box::new(ruzstd::decoding::StreamingDecoder::new(reader).map_err(
            |error| Error::invalid("read the archive's zstd header").with_source(error.to_string()),
        )?),
        Kind::Xz => Box::new(lzma_rust2::XzReader::new(reader, true)),
        Kind::Bzip2 => {
            return Err(Error::unsupported(
                "the archive is compressed with bzip2: use gzip, zstd or xz",
            ));
        }
        Kind::Plain => Box::new(reader),
    })
}

enum Kind {
    Gzip,
    Zstd,
    Xz,
    Bzip2,
    Plain,
}

fn kind(start: &[u8]) -> Kind {
    match start {
        [0x1f, 0x8b, ..] => Kind::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Kind::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Kind::Xz,
        [b'B', b'Z', b'h', ..] => Kind::Bzip2,
        _ => Kind::Plain,
    }
}
