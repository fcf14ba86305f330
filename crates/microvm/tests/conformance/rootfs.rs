//! A micro VM's root has the same tree as a container's root of the same layers.
//!
//! The trees are mounted and compared by a process in a mount namespace of its own
//! ([`compare_main`]), so that nothing stays mounted however it ends.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use bulkhead_microvm::rootfs;
use bulkhead_model::testing::{Fixture, run};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::support::{Guests, config};

type Scenario = fn(&Guests);

pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("an_image_is_the_containers_tree", same_tree),
    ("an_image_of_one_layer_has_no_marks", one_layer),
    ("an_image_of_many_layers_is_made", many_layers),
    ("an_image_of_no_layer_is_made", no_layer),
    ("the_guest_sees_the_containers_tree", guest_sees_tree),
    ("a_missing_layer_is_told", missing_layer),
    ("a_name_that_is_too_long_is_told", name_too_long),
];

/// The first argument of the process that compares.
pub const COMPARE: &str = "compare-trees";

/// Lists what a shell can tell of a tree, directories' own sizes left out.
const LIST: &str = r#"
    find . -xdev -type d -exec stat -c '%N %f %u %g %Y' {} + | sort
    find . -xdev ! -type d -exec stat -c '%N %f %u %g %s %h %t %T %Y' {} + | sort
    find . -xdev -type f -exec sha256sum {} + | sort"#;

fn same_tree(guests: &Guests) {
    let layers = odd_layers(&guests.directory());
    compare(guests, &layers, "an odd tree");
}

fn one_layer(guests: &Guests) {
    let layer = Layer(guests.directory());
    layer.directory("kept", 0o755);
    layer.xattr("kept", "trusted.overlay.opaque", b"y");
    layer.file("kept/file", 0o644, b"kept");
    layer.node("gone", FileType::CharacterDevice, 0, (0, 0));
    // Overlay lists these two, which hide nothing in a directory that only this layer has.
    for name in ["kept/gone", "kept/gone\\\n"] {
        layer.node(name, FileType::CharacterDevice, 0, (0, 0));
    }
    layer.node("kept/device", FileType::CharacterDevice, 0o600, (1, 3));
    for number in 0..6 {
        layer.file(format!("kept/shared-{number}"), 0o644, b"shared");
        layer.xattr(&format!("kept/shared-{number}"), "user.shared", b"shared");
    }
    compare(guests, &[layer.0], "one layer");
}

fn many_layers(guests: &Guests) {
    // Overlay takes 500 layers, whose paths are longer than the options of a mount may be.
    let directory = guests.directory();
    let layers: Vec<PathBuf> = (0..120)
        .map(|number| {
            // Characters that mean something in the options.
            let layer = directory.join(format!("{number}:,\\ {}", "x".repeat(64)));
            fs::create_dir(&layer).expect("layer");
            fs::write(layer.join("newest"), number.to_string()).expect("file");
            fs::write(layer.join(number.to_string()), "one").expect("file");
            layer
        })
        .collect();
    let config = config(&guests.directory());
    let chain_id = "ef".repeat(32);
    let image = rootfs::ensure(&layers, &chain_id, &config.cache_dir, &config.launcher);
    let image = image.expect("an image of many layers");
    let mounted = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg("mount -o loop,ro \"$1\" /mnt && ls /mnt | wc -l && cat /mnt/newest")
        .arg("sh")
        .arg(&image)
        .output()
        .expect("unshare");
    assert_eq!(String::from_utf8_lossy(&mounted.stdout), "121\n0");
}

fn guest_sees_tree(guests: &Guests) {
    let mut spec = guests.spec(&["sh", "-c", &format!("cd /odd && {LIST}")]);
    let below = Layer(guests.directory());
    let layers: Vec<PathBuf> = odd_layers(&guests.directory())
        .into_iter()
        .enumerate()
        .map(|(index, layer)| {
            let whole = below.0.join(index.to_string());
            fs::create_dir(&whole).expect("layer");
            fs::rename(layer, whole.join("odd")).expect("layer");
            whole
        })
        .collect();
    let busybox = spec.root.layers.clone();
    spec.root.layers = layers.iter().cloned().chain(busybox).collect();
    spec.root.chain_id = "fe".repeat(32);
    let seen = run(guests, &spec);
    assert_eq!(seen.status.code, 0, "{seen:?}");

    let work = guests.directory();
    let container = Command::new("unshare")
        .arg("--mount")
        .arg(std::env::current_exe().expect("this program"))
        .args([COMPARE, "list"])
        .arg(&work)
        .args(&spec.root.layers)
        .output()
        .expect("unshare");
    let error = String::from_utf8_lossy(&container.stderr);
    assert!(container.status.success(), "{error}");
    let expected = String::from_utf8_lossy(&container.stdout);
    assert!(expected.lines().count() > 50, "{expected}");
    let (expected, seen) = (expected.lines(), seen.stdout.lines());
    let differing: Vec<_> = expected
        .zip(seen)
        .filter(|(one, other)| one != other)
        .collect();
    assert!(differing.is_empty(), "{differing:#?}");
}

fn no_layer(guests: &Guests) {
    let config = config(&guests.directory());
    let made = rootfs::ensure(&[], &"0c".repeat(32), &config.cache_dir, &config.launcher);
    assert!(made.expect("an empty image").is_file());
}

fn missing_layer(guests: &Guests) {
    let config = config(&guests.directory());
    let missing = guests.directory().join("missing");
    let made = rootfs::ensure(
        &[missing],
        &"0a".repeat(32),
        &config.cache_dir,
        &config.launcher,
    );
    let error = made.expect_err("there is no layer");
    assert!(
        error.to_string().contains("root filesystem image"),
        "{error}"
    );
    let left = fs::read_dir(config.cache_dir.join("rootfs")).expect("directory");
    let left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
    let locks = |name: &OsString| name.to_string_lossy().ends_with(".lock");
    assert!(left.iter().all(locks), "{left:?}");
}

fn name_too_long(guests: &Guests) {
    let layer = Layer(guests.directory());
    let name = "n".repeat(255);
    layer.directory("below", 0o755);
    layer.file(format!("below/{name}"), 0o644, b"long");
    let config = config(&guests.directory());
    let chain_id = "0b".repeat(32);
    let made = rootfs::ensure(&[layer.0], &chain_id, &config.cache_dir, &config.launcher);
    // Another version of mkfs.erofs may well keep it.
    if let Err(error) = made {
        assert!(
            error.to_string().contains(&format!("/below/{name} is")),
            "{error}"
        );
        assert!(error.to_string().contains("'container'"), "{error}");
    }
}

/// Makes the image and compares it with the container's root.
fn compare(guests: &Guests, layers: &[PathBuf], what: &str) {
    let config = config(&guests.directory());
    let chain_id = "ac".repeat(32);
    let image = rootfs::ensure(layers, &chain_id, &config.cache_dir, &config.launcher);
    let output = Command::new("unshare")
        .arg("--mount")
        .arg(std::env::current_exe().expect("this program"))
        .arg(COMPARE)
        .arg(image.expect("image"))
        .arg(guests.directory())
        .args(layers)
        .output()
        .expect("unshare");
    let differences = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{what}: the image is not the container's root:\n{differences}{error}"
    );
}

/// `IMAGE WORK LAYER…` compares the image with the container's root of these layers; `list WORK
/// LAYER…` lists that root's directory `odd`.
pub fn compare_main(arguments: &[String]) -> ExitCode {
    let [image, work, layers @ ..] = arguments else {
        return ExitCode::FAILURE;
    };
    let directory = |name: &str| {
        let path = Path::new(work).join(name);
        fs::create_dir(&path).expect("mount point");
        path
    };
    let (upper, own, container) = (directory("upper"), directory("work"), directory("root"));
    // As crates/container/src/rootfs.rs mounts it.
    let overlay = format!(
        "lowerdir={},upperdir={},workdir={}",
        layers.join(":"),
        upper.display(),
        own.display()
    );
    mount(&["-t", "overlay", "overlay", "-o", &overlay], &container);
    if image == "list" {
        let status = Command::new("busybox")
            .args(["sh", "-c", LIST])
            .current_dir(container.join("odd"))
            .status();
        return match status.expect("busybox").success() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        };
    }
    let guest = directory("image");
    mount(&["-t", "erofs", "-o", "loop,ro", image], &guest);
    let (mut expected, found) = (read_tree(&container), read_tree(&guest));
    // On both kinds a sandbox's root directory itself is the writable part's. The image has the
    // topmost layer's.
    if let Some(root) = layers
        .first()
        .and_then(|top| read_tree(Path::new(top)).remove(Path::new("")))
    {
        expected.insert(PathBuf::new(), root);
    }
    let names = expected.keys().chain(found.keys());
    let names: std::collections::BTreeSet<_> = names.collect();
    let mut differences = 0;
    for name in names {
        let (container, image) = (expected.get(name), found.get(name));
        if container != image {
            differences += 1;
            println!("{name:?}:\n  container {container:?}\n  image     {image:?}");
        }
    }
    match differences {
        0 if expected.len() > 1 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn mount(arguments: &[&str], target: &Path) {
    let status = Command::new("mount").args(arguments).arg(target).status();
    assert!(status.expect("mount").success(), "{}", target.display());
}

/// What a program can see of a file, but for what is the file system's own affair: numbers of
/// inodes, size and link count of directories.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    size_and_links: Option<(u64, u64)>,
    /// The first name of the same inode.
    same_as: PathBuf,
    device: Option<u64>,
    link_target: Option<PathBuf>,
    attributes: BTreeMap<OsString, Vec<u8>>,
    content: Option<u64>,
}

fn read_tree(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut entries = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    let mut names = vec![PathBuf::new()];
    while let Some(name) = names.pop() {
        let path = root.join(&name);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            // A container lists a whiteout that hides nothing, and does not find it.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => panic!("{}: {error}", path.display()),
        };
        let kind = metadata.file_type();
        if kind.is_dir() {
            let mut children: Vec<PathBuf> = fs::read_dir(&path)
                .expect("directory")
                .map(|entry| name.join(entry.expect("entry").file_name()))
                .collect();
            // In the same order in both trees, whatever the file system's is.
            children.sort_unstable();
            names.extend(children);
        }
        let is_device = kind.is_char_device() || kind.is_block_device();
        let inode = (metadata.dev(), metadata.ino());
        let entry = Entry {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            size_and_links: (!kind.is_dir()).then(|| (metadata.size(), metadata.nlink())),
            same_as: first_names.entry(inode).or_insert(name.clone()).clone(),
            device: is_device.then(|| metadata.rdev()),
            link_target: kind
                .is_symlink()
                .then(|| fs::read_link(&path).expect("link")),
            attributes: attributes(&path),
            content: kind.is_file().then(|| digest(&path)),
        };
        entries.insert(name, entry);
    }
    entries
}

fn attributes(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut list = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut list).expect("names of attributes");
    list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, &mut value).expect("attribute");
            value.truncate(length);
            (OsStr::from_bytes(name).to_owned(), value)
        })
        .collect()
}

fn digest(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut file = File::open(path).expect("file");
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).expect("content") {
            0 => return hasher.finish(),
            count => hasher.write(&buffer[..count]),
        }
    }
}

/// A layer in the making. Times of directories are set last: what is made in them changes them.
struct Layer(PathBuf);

impl Layer {
    fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.0.join(Path::new(name.as_ref()))
    }

    fn directory(&self, name: &str, mode: u32) {
        let path = self.path(name);
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path);
        made.expect("directory");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
    }

    fn file(&self, name: impl AsRef<OsStr>, mode: u32, content: &[u8]) {
        let path = self.path(name);
        fs::write(&path, content).expect("file");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
    }

    fn node(&self, name: &str, kind: FileType, mode: u32, device: (u32, u32)) {
        let path = self.path(name);
        let number = rustix::fs::makedev(device.0, device.1);
        rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(mode), number).expect("node");
    }

    fn owner(&self, name: &str, user: u32, group: u32) {
        let path = self.path(name);
        std::os::unix::fs::lchown(path, Some(user), Some(group)).expect("owner");
    }

    fn xattr(&self, name: &str, attribute: &str, value: &[u8]) {
        let path = self.path(name);
        let set = rustix::fs::lsetxattr(&path, attribute, value, XattrFlags::empty());
        set.unwrap_or_else(|error| panic!("{attribute} of {name}: {error}"));
    }

    fn time(&self, name: &str, seconds: i64, nanoseconds: i64) {
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        let path = self.path(name);
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("time");
    }
}

/// Layers with everything that a file system can hold, the topmost first.
fn odd_layers(directory: &Path) -> Vec<PathBuf> {
    let layer = |name: &str| {
        let path = directory.join(name);
        fs::create_dir(&path).expect("layer");
        Layer(path)
    };
    let (top, middle, bottom) = (layer("top"), layer("middle"), layer("bottom"));
    modes_and_owners(&bottom);
    attributes_of_all_kinds(&bottom);
    contents(&bottom);
    names_and_nodes(&bottom);
    links(&bottom);
    what_upper_layers_change(&bottom, &middle, &top);
    times(&bottom);
    times(&top);
    [top, middle, bottom].map(|layer| layer.0).to_vec()
}

fn modes_and_owners(layer: &Layer) {
    layer.directory("modes", 0o755);
    for mode in [0, 0o1, 0o644, 0o777, 0o1644, 0o2755, 0o4711, 0o7777] {
        layer.file(format!("modes/file-{mode:o}"), mode, b"mode");
        layer.directory(&format!("modes/directory-{mode:o}"), mode);
    }
    layer.directory("owners", 0o755);
    for owner in [0, 1, 65_534, 65_535, 65_536, 1_000_000, u32::MAX - 1] {
        let name = format!("owners/{owner}");
        layer.file(&name, 0o640, b"owner");
        layer.owner(&name, owner, owner.wrapping_sub(1) & 0x7fff_ffff);
    }
    layer.directory("owners/directory", 0o750);
    layer.owner("owners/directory", 70_000, 80_000);
}

fn attributes_of_all_kinds(layer: &Layer) {
    // Of version 2, CAP_NET_BIND_SERVICE, effective.
    const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // user::rw-, user:1000:r--, group::r--, mask::r--, other::r--
    const ACL: [u8; 44] = [
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255,
        255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
    ];
    layer.directory("attributes", 0o755);
    layer.file("attributes/file", 0o755, b"attributes");
    layer.xattr("attributes/file", "user.name", b"value");
    layer.xattr("attributes/file", "user.empty", b"");
    layer.xattr("attributes/file", "user.bytes", &[0, 255, b'\n', 0]);
    layer.xattr("attributes/file", "user.long", &[b'x'; 2000]);
    let long_name = format!("user.{}", "n".repeat(250));
    layer.xattr("attributes/file", &long_name, b"long");
    layer.xattr("attributes/file", "trusted.name", b"trusted");
    layer.xattr("attributes/file", "security.capability", &CAPABILITY);
    layer.file("attributes/acl", 0o644, b"acl");
    layer.xattr("attributes/acl", "system.posix_acl_access", &ACL);
    layer.directory("attributes/directory", 0o755);
    layer.xattr("attributes/directory", "user.of.a.directory", b"yes");
    layer.xattr("attributes/directory", "system.posix_acl_default", &ACL);
    symlink("file", layer.path("attributes/link")).expect("link");
    layer.xattr("attributes/link", "trusted.of.a.link", b"yes");
    // More than a few files with the same attribute share it in the image.
    for number in 0..6 {
        let name = format!("attributes/shared-{number}");
        layer.file(&name, 0o755, b"shared");
        layer.xattr(&name, "security.capability", &CAPABILITY);
        layer.xattr(&name, "user.shared", b"shared");
    }
}

fn contents(layer: &Layer) {
    layer.directory("contents", 0o755);
    for size in [0, 1, 4095, 4096, 4097, 8192] {
        let content: Vec<u8> = (0..size).map(|index: u32| index as u8 | 1).collect();
        layer.file(format!("contents/{size}"), 0o644, &content);
    }
    let mut random = vec![0; 5 << 20];
    let source = File::open("/dev/urandom").expect("random bytes");
    source
        .take(5 << 20)
        .read_exact(&mut random)
        .expect("random bytes");
    layer.file("contents/random", 0o644, &random);
    let mut sparse = File::create(layer.path("contents/sparse")).expect("file");
    sparse.set_len(24 << 20).expect("size");
    for (position, text) in [(4096 * 3 + 7, "early"), (16 << 20, "after the hole")] {
        sparse.seek(SeekFrom::Start(position)).expect("seek");
        sparse.write_all(text.as_bytes()).expect("data");
    }
}

fn names_and_nodes(layer: &Layer) {
    layer.directory("names", 0o755);
    let longest = "l".repeat(254);
    for name in [
        b"not \xff\xfe UTF-8".as_slice(),
        b"a\nnewline",
        b"back\\slash",
        b"a:colon,and=comma",
        b" ",
        b"-dash",
        b"\x01\x7f",
        "umläut ☃".as_bytes(),
        longest.as_bytes(),
    ] {
        let path = Path::new("names").join(OsStr::from_bytes(name));
        layer.file(path, 0o644, name);
    }
    layer.directory("names/a:directory\\", 0o755);
    layer.file("names/a:directory\\/file", 0o644, b"below");
    // More than one block of a directory.
    layer.directory("many", 0o755);
    for number in 0..400 {
        layer.file(format!("many/{number}-{}", "m".repeat(40)), 0o644, b"");
    }
    layer.directory("nodes/empty", 0o700);
    layer.node("nodes/fifo", FileType::Fifo, 0o620, (0, 0));
    layer.node("nodes/socket", FileType::Socket, 0o755, (0, 0));
    layer.node("nodes/null", FileType::CharacterDevice, 0o666, (1, 3));
    layer.node("nodes/block", FileType::BlockDevice, 0o660, (259, 70_000));
}

fn links(layer: &Layer) {
    layer.directory("links/other", 0o755);
    layer.file("links/one", 0o644, b"three names");
    for name in ["links/two", "links/other/three"] {
        fs::hard_link(layer.path("links/one"), layer.path(name)).expect("hard link");
    }
    layer.node("links/fifo", FileType::Fifo, 0o600, (0, 0));
    fs::hard_link(layer.path("links/fifo"), layer.path("links/fifo-again")).expect("hard link");
    symlink("nowhere", layer.path("links/dangling")).expect("link");
    fs::hard_link(
        layer.path("links/dangling"),
        layer.path("links/dangling-again"),
    )
    .expect("hard link");
    symlink("/absolute/../path", layer.path("links/absolute")).expect("link");
    for length in [59, 60, 255, 4000, 4095] {
        let target = "t/".repeat(length / 2) + &"t".repeat(length % 2);
        symlink(target, layer.path(format!("links/{length}"))).expect("link");
    }
    symlink(OsStr::from_bytes(b"\xff\n\\"), layer.path("links/odd")).expect("link");
}

/// Whiteouts, opaque directories, and files that come again elsewhere or as something else.
fn what_upper_layers_change(bottom: &Layer, middle: &Layer, top: &Layer) {
    for name in [
        "changed/opaque",
        "changed/merged",
        "changed/gone",
        "changed/becomes-file",
    ] {
        bottom.directory(name, 0o755);
        bottom.file(format!("{name}/below"), 0o644, b"of the bottom layer");
    }
    for name in [
        "changed/moved-from",
        "changed/whited-out",
        "changed/replaced",
    ] {
        bottom.file(name, 0o600, b"of the bottom layer");
    }
    bottom.file("changed/becomes-directory", 0o644, b"file");
    middle.directory("changed/opaque", 0o711);
    middle.xattr("changed/opaque", "trusted.overlay.opaque", b"y");
    middle.file("changed/opaque/above", 0o644, b"alone");
    middle.directory("changed/merged", 0o770);
    middle.owner("changed/merged", 5, 6);
    middle.xattr("changed/merged", "user.merged", b"yes");
    middle.file("changed/merged/above", 0o644, b"beside");
    for name in ["changed/gone", "changed/whited-out", "changed/moved-from"] {
        middle.node(name, FileType::CharacterDevice, 0, (0, 0));
    }
    middle.file("changed/moved-to", 0o600, b"of the bottom layer");
    middle.file("changed/becomes-file", 0o644, b"file");
    middle.directory("changed/becomes-directory", 0o755);
    middle.file("changed/becomes-directory/file", 0o644, b"below");
    top.directory("changed", 0o755);
    top.file("changed/replaced", 0o4755, b"of the top layer");
    // What was gone comes again.
    top.file("changed/whited-out", 0o644, b"again");
    top.node("changed/moved-to", FileType::CharacterDevice, 0, (0, 0));
    top.directory("changed/gone", 0o755);
    top.file("changed/gone/new", 0o644, b"new");
}

fn times(layer: &Layer) {
    layer.directory("times", 0o755);
    for (name, seconds, nanoseconds) in [
        ("epoch", 0, 0),
        ("epoch-and-one", 0, 1),
        ("before-1970", -86_400 * 365 * 20, 123_456_789),
        ("just-before-1970", -1, 999_999_999),
        ("after-2038", (1 << 31) + 5, 987_654_321),
        ("after-2106", (1 << 32) + 5, 1),
        ("usual", 1_700_000_000, 500_000_000),
    ] {
        layer.file(format!("times/{name}"), 0o644, b"time");
        layer.time(&format!("times/{name}"), seconds, nanoseconds);
        layer.directory(&format!("times/directory-{name}"), 0o755);
        layer.time(&format!("times/directory-{name}"), seconds, nanoseconds);
        let link = format!("times/link-{name}");
        let _ = fs::remove_file(layer.path(&link));
        symlink(name, layer.path(&link)).expect("link");
        layer.time(&link, seconds, nanoseconds);
    }
    layer.time("times", 1_000_000_000, 42);
    layer.time("", -5, 7);
}
