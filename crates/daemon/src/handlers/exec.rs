use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use bulkhead_engine::{Output, Session, State as SandboxState};
use bulkhead_model::{Error, ProcessSpec, TerminalSize};
use serde::Deserialize;
use serde_json::{Value, json};

use super::query::Size;
use super::stream::{Wanted, hijack};
use crate::app::{App, ExecRecord, ExecState};
use crate::convert::create::set_variable;
use crate::error::{ApiResult, message_of};

/// How many ended execs are remembered.
const ENDED_KEPT: usize = 256;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ExecCreate {
    attach_stdin: bool,
    tty: bool,
    env: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    privileged: bool,
    user: Option<String>,
    working_dir: Option<String>,
    console_size: Option<[u16; 2]>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ExecStart {
    detach: bool,
    tty: bool,
    console_size: Option<[u16; 2]>,
}

pub(crate) async fn create(
    State(app): State<App>,
    Path(id): Path<String>,
    Json(body): Json<ExecCreate>,
) -> ApiResult<Response> {
    let record = app.engine.get(&id)?;
    match record.state {
        SandboxState::Running => {}
        SandboxState::Paused => {
            return Err(Error::conflict(format!(
                "Container {} is paused, unpause the container before exec",
                record.config.name
            ))
            .into());
        }
        _ => {
            return Err(Error::conflict(format!(
                "container {} is not running",
                record.config.name
            ))
            .into());
        }
    }
    let args = body.cmd.unwrap_or_default();
    if args.is_empty() {
        return Err(Error::invalid("No exec command specified").into());
    }
    let workload = &record.config.process;
    let mut env = workload.env.clone();
    if body.tty {
        set_variable(&mut env, "TERM=xterm".to_owned());
    }
    for variable in body.env.into_iter().flatten() {
        set_variable(&mut env, variable);
    }
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let process = ProcessSpec {
        args,
        env,
        cwd: given(body.working_dir).unwrap_or_else(|| workload.cwd.clone()),
        user: given(body.user).unwrap_or_else(|| workload.user.clone()),
        terminal: body.tty.then(|| size(body.console_size)),
        stdin: body.attach_stdin,
        privileged: body.privileged,
    };
    let exec_id = random_id()?;
    let mut execs = app
        .execs
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    if execs.len() >= ENDED_KEPT {
        execs.retain(|_, exec| !matches!(exec.state, ExecState::Exited(_)));
    }
    let state = ExecState::Created;
    let record = ExecRecord {
        sandbox: record.id,
        process,
        state,
        pid: 0,
        input: None,
    };
    execs.insert(exec_id.clone(), record);
    Ok((StatusCode::CREATED, Json(json!({ "Id": exec_id }))).into_response())
}

fn size(given: Option<[u16; 2]>) -> TerminalSize {
    match given {
        Some([rows, columns]) if rows > 0 && columns > 0 => TerminalSize { rows, columns },
        _ => TerminalSize::default(),
    }
}

fn random_id() -> Result<String, Error> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::host(format!("draw a random id: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(crate) async fn start(
    State(app): State<App>,
    Path(id): Path<String>,
    request: Request<Body>,
) -> ApiResult<Response> {
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, 64 * 1024)
        .await
        .map_err(|error| Error::invalid("read the request").with_source(error))?;
    let options: ExecStart = parse_body(&bytes)?;
    let request = Request::from_parts(parts, Body::empty());
    let begun = app.with_exec(&id, |exec| {
        if exec.state != ExecState::Created {
            return Err(Error::conflict("the exec has been started before"));
        }
        exec.state = ExecState::Running;
        if let (Some(terminal), Some([rows, columns])) =
            (exec.process.terminal.as_mut(), options.console_size)
            && rows > 0
            && columns > 0
        {
            *terminal = TerminalSize { rows, columns };
        }
        Ok((exec.sandbox.clone(), exec.process.clone()))
    });
    let (sandbox, process) = begun.ok_or_else(|| no_such_exec(&id))??;
    let terminal = process.terminal.is_some();
    let stdin = process.stdin;
    let (pid, mut session) = match app.engine.exec(&sandbox, process).await {
        Ok(started) => started,
        Err(error) => {
            let code = match error.kind() {
                bulkhead_model::ErrorKind::CommandNotFound => 127,
                bulkhead_model::ErrorKind::CommandNotExecutable => 126,
                _ => 128,
            };
            app.with_exec(&id, |exec| exec.state = ExecState::Exited(code));
            if options.detach || code == 128 {
                return Err(error.into());
            }
            // As Docker: the client is attached, reads why, and asks for the exit code.
            let session = explained(&message_of(&error));
            let wanted = Wanted {
                stdout: true,
                stderr: true,
            };
            return hijack(
                request,
                terminal,
                true,
                wanted,
                async move { Ok(session) },
                |_| {},
            );
        }
    };
    app.with_exec(&id, |exec| {
        exec.pid = pid;
        exec.input = Some(session.input.clone());
    });
    let finish = {
        let (app, id) = (app.clone(), id.clone());
        move |exit: Option<bulkhead_model::ExitStatus>| {
            app.with_exec(&id, |exec| {
                exec.state = ExecState::Exited(exit.map_or(137, |exit| exit.code));
                exec.input = None;
            });
        }
    };
    if options.detach {
        tokio::spawn(async move {
            let mut exit = None;
            while let Some(chunk) = session.output.recv().await {
                if let Output::Exited(status) = chunk {
                    exit = Some(status);
                }
            }
            finish(exit);
        });
        return Ok(StatusCode::OK.into_response());
    }
    if !stdin && let Err(error) = session.input.send(bulkhead_engine::Input::Close).await {
        tracing::trace!(%error, "the exec has ended already");
    }
    let wanted = Wanted {
        stdout: true,
        stderr: true,
    };
    hijack(
        request,
        terminal || options.tty,
        true,
        wanted,
        async move { Ok(session) },
        finish,
    )
}

/// A session that says why there is none.
fn explained(message: &str) -> Session {
    let (input, _) = tokio::sync::mpsc::channel(1);
    let (outputs, output) = tokio::sync::mpsc::channel(1);
    let text = Bytes::from(format!(
        "OCI runtime exec failed: exec failed: {message}\r\n"
    ));
    if outputs.try_send(Output::Stdout(text)).is_err() {
        tracing::trace!("the queue takes one");
    }
    Session { input, output }
}

fn parse_body(bytes: &Bytes) -> Result<ExecStart, Error> {
    if bytes.is_empty() {
        return Ok(ExecStart::default());
    }
    serde_json::from_slice(bytes)
        .map_err(|error| Error::invalid("read the request").with_source(error))
}

fn no_such_exec(id: &str) -> Error {
    Error::not_found(format!("No such exec instance: {id}"))
}

pub(crate) async fn resize(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(size): Query<Size>,
) -> ApiResult<StatusCode> {
    let input = app
        .with_exec(&id, |exec| exec.input.clone())
        .ok_or_else(|| no_such_exec(&id))?;
    let size = TerminalSize {
        rows: size.rows,
        columns: size.columns,
    };
    let Some(input) = input else {
        return Err(Error::conflict("the exec is not running").into());
    };
    if input
        .send(bulkhead_engine::Input::Resize(size))
        .await
        .is_err()
    {
        return Err(Error::conflict("the exec has ended").into());
    }
    Ok(StatusCode::OK)
}

pub(crate) async fn inspect(
    State(app): State<App>,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let exec = app
        .with_exec(&id, |exec| exec.clone())
        .ok_or_else(|| no_such_exec(&id))?;
    let exit_code = match exec.state {
        ExecState::Exited(code) => Some(code),
        ExecState::Created | ExecState::Running => None,
    };
    Ok(Json(json!({
        "ID": id,
        "Running": exec.state == ExecState::Running,
        "ExitCode": exit_code,
        "ProcessConfig": {
            "tty": exec.process.terminal.is_some(),
            "entrypoint": exec.process.args.first(),
            "arguments": exec.process.args.get(1..),
            "privileged": exec.process.privileged,
            "user": exec.process.user,
        },
        "OpenStdin": exec.process.stdin,
        "OpenStderr": true,
        "OpenStdout": true,
        "CanRemove": exit_code.is_some(),
        "ContainerID": exec.sandbox,
        "DetachKeys": "",
        "Pid": exec.pid,
    })))
}
