// The standard build of Caddy, made the way upstream recommends (Caddy as a
// dependency): the same two imports and one call as upstream's cmd/caddy/main.go,
// so that `caddy version` names the pinned version. Nothing of the server is changed.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func main() {
	caddycmd.Main()
}
