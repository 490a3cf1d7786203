"""Requests to addresses that strangers name: inputs fetched by URL, and callbacks.

The danger is that a caller uses this machine to reach what the caller cannot: the database beside it, the metadata
service of its cloud, an admin page on loopback. The answer is one path that every such request takes:

    guard.check_url          scheme, user name, port, addresses written out: what can be told without DNS
    transport.resolve        one look-up, with a time limit
    Guard.screen             every address must be public, or the host be one the operator named
    stream.connect           to one of these very addresses: no second look-up that a rebinding name could use
    TLS and Host             under the original name: the certificate is checked against it

`addresses`  pure: which IP addresses are public
`guard`      what may be contacted: the check of a URL's text (no DNS; for submit time) and of resolved addresses
`deadline`   the total time of an exchange and the caller's wish to stop, in one place where everything waits
`stream`     the socket: every wait passes the deadline, so a server that drips bytes ends with it
`transport`  one guarded exchange through httpcore; knows no redirects, cookies, proxies or environment
`encoding`   bodies sent compressed although `identity` was asked, decoded in bounded pieces
`fetch`      a body into a file: redirects re-checked, sizes capped, broken connections resumed
`headers`    what an answer's headers say of the file: its name, its type, which version it is
`backoff`    pure: when to try a callback again, what an answer means, Retry-After
`webhooks`   a signed callback out, after Standard Webhooks

What is not covered: an IPv6-only network whose NAT64 uses a prefix of its own maps every IPv4 address, private ones
too, into addresses that look public; such a network must filter at its gateway. The well-known NAT64 prefixes are
refused. Hosts named in `NIGHTSHIFT_ALLOW_PRIVATE_HOSTS` are trusted as names: wherever they resolve to.
"""
