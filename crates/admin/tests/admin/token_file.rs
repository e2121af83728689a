//! The token file: made, checked, replaced.

use std::{
    fs::Permissions,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use semel_admin::{AdminError, AdminServer, AdminSettings, AdminToken};
use semel_core::code::Code;
use semel_testkit::skipped;
use serde_json::json;

use crate::gateway::Gateway;

const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// Set in the copy of this program that runs without privileges.
const UNPRIVILEGED: &str = "SEMEL_TEST_UNPRIVILEGED";
/// nobody.
const OTHER_USER: u32 = 65534;

fn code(path: &Path) -> Option<Code> {
    AdminToken::load(path).err().map(|error| error.code)
}

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn it_is_made_at_the_first_start_and_kept_at_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.token");
    let token = AdminToken::load_or_create(&path).unwrap();
    assert_eq!((token.expose().len(), token.expose().bytes().all(|b| b.is_ascii_hexdigit())), (64, true));
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
    assert_eq!(AdminToken::load_or_create(&path).unwrap().expose(), token.expose());
    assert_eq!(folder.path().read_dir().unwrap().count(), 1, "nothing is left beside it");
    let other = AdminToken::load_or_create(&folder.path().join("other.token")).unwrap();
    assert_ne!(other.expose(), token.expose());
}

#[test]
fn a_file_that_others_can_get_at_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.token");
    for mode in [0o600, 0o400] {
        write(&path, TOKEN, mode);
        assert_eq!(code(&path), None, "{mode:o}");
    }
    for mode in [0o640, 0o604, 0o610, 0o620, 0o602, 0o666, 0o777] {
        write(&path, TOKEN, mode);
        assert_eq!(code(&path), Some(Code::ADMIN_TOKEN_EXPOSED), "{mode:o}");
    }
    // The mode that counts is the file's, not the link's.
    let link = folder.path().join("link");
    symlink(&path, &link).unwrap();
    assert_eq!(code(&link), Some(Code::ADMIN_TOKEN_EXPOSED));
    write(&path, TOKEN, 0o600);
    assert_eq!(code(&link), None);
}

#[test]
fn a_file_of_another_user_is_refused() {
    if !is_root() {
        return skipped("only root can give a file away");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.token");
    write(&path, TOKEN, 0o600);
    chown(&path, Some(OTHER_USER), None).unwrap();
    assert_eq!(code(&path), Some(Code::ADMIN_TOKEN_FOREIGN));
}

#[test]
fn what_is_no_token_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.token");
    for text in
        ["", "short", "two lines of text\nthat are no token at all\n", &TOKEN.repeat(5), "\u{e9}".repeat(40).as_str()]
    {
        write(&path, text, 0o600);
        assert_eq!(code(&path), Some(Code::ADMIN_TOKEN_MALFORMED), "{text:?}");
    }
    assert_eq!(code(folder.path()), Some(Code::ADMIN_TOKEN_UNREADABLE), "a folder");
    let fifo = folder.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from(0o600)).unwrap();
    assert_eq!(code(&fifo), Some(Code::ADMIN_TOKEN_UNREADABLE), "a FIFO, without waiting for its writer");
    assert_eq!(code(&folder.path().join("absent")), Some(Code::ADMIN_TOKEN_UNREADABLE));
    let nowhere = folder.path().join("nowhere/admin.token");
    assert_eq!(AdminToken::load_or_create(&nowhere).unwrap_err().code, Code::ADMIN_TOKEN_UNREADABLE);
}

/// Root may read everything, so this part runs in a copy of this program without privileges.
#[test]
fn a_file_that_cannot_be_read_or_made_is_refused() {
    if let Some(folder) = std::env::var_os(UNPRIVILEGED) {
        return unprivileged(&PathBuf::from(folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = if is_root() {
        // The copy must be reachable for somebody who may not enter the folder of the original.
        let copy = folder.path().join("copy");
        std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        chown(folder.path(), Some(OTHER_USER), Some(OTHER_USER)).unwrap();
        let mut command = Command::new("setpriv");
        let user = OTHER_USER.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]).arg(copy);
        command
    } else {
        Command::new(std::env::current_exe().unwrap())
    };
    let test = "token_file::a_file_that_cannot_be_read_or_made_is_refused";
    command.args(["--exact", test, "--nocapture"]).env(UNPRIVILEGED, folder.path());
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return skipped("there is no setpriv"),
        Err(error) => panic!("{error}"),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

fn unprivileged(folder: &Path) {
    assert!(!is_root());
    let path = folder.join("admin.token");
    AdminToken::load_or_create(&path).unwrap();
    let mode = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(&path, 0o000);
    assert_eq!(code(&path), Some(Code::ADMIN_TOKEN_UNREADABLE));
    let closed = folder.join("closed");
    std::fs::create_dir(&closed).unwrap();
    mode(&closed, 0o500);
    let error = AdminToken::load_or_create(&closed.join("admin.token")).unwrap_err();
    assert_eq!(error.code, Code::ADMIN_TOKEN_UNREADABLE);
    assert!(error.to_string().contains("cannot be made: Permission denied"), "{error}");
    assert_eq!(code(Path::new("/etc/passwd")), Some(Code::ADMIN_TOKEN_FOREIGN));
    mode(&closed, 0o700);
}

#[tokio::test]
async fn the_server_does_not_start_without_a_sound_token() {
    let running = Gateway::start().await;
    let path = running.folder.path().join("admin.token");
    let bind = async || {
        let settings = AdminSettings::at(running.address, path.clone());
        let (ledger, hooks) = (running.ledger.clone(), running.hooks.clone());
        AdminServer::bind(settings, ledger, Default::default(), hooks).await.err().unwrap()
    };
    let error = bind().await;
    assert!(matches!(error, AdminError::Listen { .. }), "{error}");
    assert_eq!(error.code(), Code::CANNOT_LISTEN);
    write(&path, TOKEN, 0o644);
    assert_eq!(bind().await.code(), Code::ADMIN_TOKEN_EXPOSED);
}

#[tokio::test]
async fn a_replaced_token_counts_after_a_reload() {
    let mut gateway = Gateway::start().await;
    let path = gateway.folder.path().join("admin.token");
    let reload = json!({ "reason": "new token" });
    write(&path, TOKEN, 0o644);
    let refused = gateway.change("/v1/reload", &reload).await;
    assert_eq!(refused.refusal(), (422, "reload-refused"));
    assert_eq!(refused.json["explained_by"], "SM0301");
    assert!(gateway.handle.reload_token().is_err());
    write(&path, TOKEN, 0o600);
    assert_eq!(gateway.change("/v1/reload", &reload).await.status(), 200);
    assert_eq!(gateway.change("/v1/reload", &reload).await.refusal(), (401, "token-wrong"));
    gateway.token = TOKEN.to_owned();
    assert_eq!(gateway.change("/v1/reload", &reload).await.status(), 200);
    write(&path, &TOKEN.replace('0', "1"), 0o600);
    gateway.handle.reload_token().unwrap();
    assert_eq!(gateway.change("/v1/reload", &reload).await.refusal(), (401, "token-wrong"));
}
