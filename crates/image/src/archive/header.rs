use std::io::{self, Read, Write};

/// What one entry of an archive says about its file.
#[derive(Debug, Clone, Default)]
pub(crate) struct EntryHeader<'a> {
    /// Without a leading slash; a directory's ends with one.
    pub path: &'a [u8],
    /// The tar type flag: `0` file, `1` hard link, `2` symlink, `3` and `4` devices, `5`
    /// directory, `6` pipe.
    pub flag: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Seconds since the epoch.
    pub modified: i64,
    pub link: &'a [u8],
    pub device: (u32, u32),
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Writes archives in POSIX form (ustar, with pax records only where ustar has no room), so that
/// the same entries always give the same bytes.
pub(crate) struct TarWriter<W> {
    out: W,
    written: u64,
}

impl<W: Write> TarWriter<W> {
    pub fn new(out: W) -> Self {
        Self { out, written: 0 }
    }

    /// Writes a header; a file's `size` bytes follow through [`Self::content`].
    pub fn header(&mut self, entry: &EntryHeader<'_>) -> io::Result<()> {
        let mut records = Vec::new();
        if entry.path.len() > 100 {
            record(&mut records, b"path", entry.path);
        }
        if entry.link.len() > 100 {
            record(&mut records, b"linkpath", entry.link);
        }
        if entry.size >= 1 << 33 {
            record(&mut records, b"size", entry.size.to_string().as_bytes());
        }
        if entry.modified < 0 || entry.modified >= 1 << 33 {
            record(
                &mut records,
                b"mtime",
                entry.modified.to_string().as_bytes(),
            );
        }
        if entry.uid >= 1 << 21 {
            record(&mut records, b"uid", entry.uid.to_string().as_bytes());
        }
        if entry.gid >= 1 << 21 {
            record(&mut records, b"gid", entry.gid.to_string().as_bytes());
        }
        for (name, value) in entry.xattrs {
            record(
                &mut records,
                &[b"SCHILY.xattr.", name.as_slice()].concat(),
                value,
            );
        }
        if !records.is_empty() {
            let pax = EntryHeader {
                path: b"././@PaxHeader",
                flag: b'x',
                mode: 0o644,
                size: records.len() as u64,
                ..EntryHeader::default()
            };
            self.block(&pax)?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.block(entry)
    }

    /// Writes exactly `size` bytes of `reader`, as the header before said.
    pub fn content(&mut self, mut reader: impl Read, size: u64) -> io::Result<()> {
        let mut buffer = [0; 1 << 16];
        let mut left = size;
        while left > 0 {
            let most = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = match reader.read(&mut buffer[..most]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if read == 0 {
                return Err(io::Error::other("a file became shorter while it was read"));
            }
            self.out.write_all(&buffer[..read])?;
            left -= read as u64;
        }
        self.pad(size)
    }

    /// Ends the archive; gives its length in bytes.
    pub fn finish(mut self) -> io::Result<u64> {
        self.out.write_all(&[0; 1024])?;
        self.out.flush()?;
        Ok(self.written + 1024)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = (512 - size % 512) % 512;
        self.out.write_all(&[0; 512][..padding as usize])?;
        self.written += size + padding;
        Ok(())
    }

    fn block(&mut self, entry: &EntryHeader<'_>) -> io::Result<()> {
        let mut block = [0; 512];
        let fill = |field: &mut [u8], bytes: &[u8]| {
            let length = bytes.len().min(field.len());
            field[..length].copy_from_slice(&bytes[..length]);
        };
        let octal = |field: &mut [u8], number: u64| {
            let digits = field.len() - 1;
            let text = format!("{number:0digits$o}");
            // What does not fit is in a pax record.
            if text.len() == digits {
                field[..digits].copy_from_slice(text.as_bytes());
            } else {
                field[..digits].fill(b'0');
            }
        };
        fill(&mut block[0..100], entry.path);
        octal(&mut block[100..108], u64::from(entry.mode));
        octal(&mut block[108..116], u64::from(entry.uid));
        octal(&mut block[116..124], u64::from(entry.gid));
        octal(&mut block[124..136], entry.size);
        octal(&mut block[136..148], entry.modified.max(0) as u64);
        block[148..156].fill(b' ');
        block[156] = entry.flag;
        fill(&mut block[157..257], entry.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        octal(&mut block[329..337], u64::from(entry.device.0));
        octal(&mut block[337..345], u64::from(entry.device.1));
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        block[154] = 0;
        self.out.write_all(&block)?;
        self.written += 512;
        Ok(())
    }
}

/// Appends a pax record, `<length> <key>=<value>\n`, whose length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() > length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}
