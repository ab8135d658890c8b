//! Bytes on the admin socket of a running process: none of them panics or hangs the connection, and each request that is one
//! gets an answer.

#![no_main]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ringway::config;
use ringway::control::admin;
use ringway::control::process::Process;
use ringway::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

struct Running {
    process: Arc<dyn Process>,
    runtime: Runtime,
    /// Dropped never: the process of the fuzzer ends with it.
    _server: Server,
}

fn running() -> &'static Running {
    static RUNNING: OnceLock<Running> = OnceLock::new();
    RUNNING.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder").keep();
        let yaml = format!(
            "admin: {{listen_address: off, socket: off}}\nruntime: {{cores: 1}}\nhealthcheck: off\n\
             loadbalancer: {{listen_address: 'unix:{}'}}\nbackends: [{{name: a, address: 127.0.0.1, port: 1}}]\n",
            folder.join("l.sock").display()
        );
        let config = config::parse("fuzz.yaml", yaml.as_bytes()).expect("a valid configuration").config;
        let server = Server::start(Arc::new(config)).expect("it starts");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        Running { process: server.process(None), runtime, _server: server }
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Running { process, runtime, .. } = running();
    runtime.block_on(async {
        let (mut client, stream) = tokio::io::duplex(1 << 20);
        let talk = async {
            let _ = client.write_all(bytes).await;
            let _ = client.shutdown().await;
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer).await;
            answer
        };
        let both = async { tokio::join!(admin::converse(stream, Arc::clone(process)), talk).1 };
        let answer = tokio::time::timeout(Duration::from_secs(5), both).await.expect("it ends");
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{answer:?}");
    });
});
