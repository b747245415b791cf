//! Lines as many programs write them, and which of them say the same.

/// Of each group all have one pattern.
pub(super) const SAME: &[&[&str]] = &[
    &[
        r#"Accepted publickey for alice from 10.0.0.1 port 22 ssh2"#,
        r#"Accepted publickey for Bob from fe80::1 port 2222 ssh2"#,
        r#"Accepted publickey for svc_backup from 10.0.0.1 port 22 ssh2"#,
    ],
    &[
        r#"connection from 10.1.2.3 () at Sat Jun 18 02:08:10 2005"#,
        r#"connection from 10.1.2.3 (host.example.com) at Sun Jul  3 23:16:09 2005"#,
    ],
    &[
        r#"request done in <1 sec"#,
        r#"request done in 00:12"#,
        r#"request done in 5 ms"#,
        r#"request done in 1.25s"#,
    ],
    &[
        r#"GET /a/b?c=d HTTP/1.1 200 15"#,
        r#"GET / HTTP/1.1 404 15"#,
        r#"GET /index.html HTTP/2 200 0"#,
    ],
    &[
        r#"10.0.0.1 - - [27/Nov/2026:10:00:00 +0000] "GET /a HTTP/1.1" 200 15 "-" "curl/8.0""#,
        r#"10.0.0.2 - - [27/Nov/2026:10:00:00 +0000] "POST /b/c?x=1 HTTP/1.1" 500 0 "http://a.b/" "Mozilla/5.0 (X11)""#,
    ],
    &[
        r#"{"level":"info","msg":"server started","port":8080,"tls":true}"#,
        r#"{"level":"warn","msg":"server started","port":80,"tls":false}"#,
    ],
    &[
        r#"level=info ts=2026-11-27T10:00:00Z msg="compaction done" duration=1.2s"#,
        r#"level=warn ts=2026-11-27T10:01:00Z msg="compaction done" duration=5ms"#,
    ],
    &[r#"pod default/nginx-abc created"#, r#"pod kube-system/coredns created"#],
    &[r#"link eth0 is up, speed 1000 Mbps"#, r#"link enp3s0 is up, speed 100 Mbps"#],
    &[r#"allowed hosts: [a, b, c]"#, r#"allowed hosts: [a, b]"#, r#"allowed hosts: [a, b, c, d2]"#],
    &[r#"enabled: true"#, r#"enabled: false"#],
    &[
        r#"ActivityRecord{29ccef7 u0 com.foo.bar/.ui.Main t761} paused"#,
        r#"ActivityRecord{1 u0 com.foo/.Main} paused"#,
    ],
    &[r#"New session 12 of user root."#, r#"New session c3 of user gdm."#],
    &[r#"Started Session 1 of user postgres."#, r#"Started Session 4215 of user Alice."#],
    &[r#"error code=5 reason= user=bob"#, r#"error code= reason=timeout user=alice"#],
    &[
        r#"checkpoint complete: wrote 44 buffers (0.3%); 0 WAL file(s) added"#,
        r#"checkpoint complete: wrote 4 buffers (12.3%); 1 WAL file(s) added"#,
    ],
    &[r#"MAC aa:bb:cc:dd:ee:f0 seen"#, r#"MAC 00:11:22:33:44:55 seen"#],
    &[r#"commit deadbeefcafe pushed"#, r#"commit 0123456789ab pushed"#],
    &[r#"values: 1, 2, 3"#, r#"values: 1, 2"#, r#"values: 7"#],
    &[
        r#"relation "users" does not exist at character 15"#,
        r#"relation "orders_2" does not exist at character 151"#,
    ],
    &[
        r#"worker pid 12 exited on signal 9 (core dumped: true)"#,
        r#"worker pid 13 exited on signal 11 (core dumped: false)"#,
    ],
    &[
        r#"disk usage 81% on /dev/sda1, 1.2 GB free"#,
        r#"disk usage 7.5% on /dev/nvme0n1p2, 300 MB free"#,
    ],
    &[
        r#"Failed to start nginx.service: Unit not found."#,
        r#"Failed to start foo-bar.service: Unit not found."#,
    ],
    &[r#"C:\Windows\System32\foo.dll loaded"#, r#"D:\Temp\a b.dll loaded"#],
];

/// Of each group no two have one pattern.
pub(super) const DIFFERENT: &[&[&str]] = &[
    &[
        r#"{"level":"info","msg":"server started","port":8080}"#,
        r#"{"level":"info","msg":"server stopped","port":8080}"#,
    ],
    &[
        r#"level=info msg="compaction done" duration=1.2s"#,
        r#"level=info msg="compaction failed" duration=1.2s"#,
    ],
    &[r#"link eth0 is up, speed 1000 Mbps"#, r#"link eth0 is down, speed 1000 Mbps"#],
    &[r#"node is in the available state"#, r#"node is in the unavailable state"#],
    &[r#"session opened for user root by (uid=0)"#, r#"session closed for user root by (uid=0)"#],
    &[r#"task 7 moved from NEW to RUNNING"#, r#"task 7 moved from RUNNING to DONE"#],
    &[
        r#"cannot open /etc/passwd: Permission denied"#,
        r#"cannot open /etc/passwd: No such file or directory"#,
    ],
    &[r#"caught java.io.IOException: reset"#, r#"caught java.net.SocketException: reset"#],
];
