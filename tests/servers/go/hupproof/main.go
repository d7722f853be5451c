// An HTTP app that survives the hang-up of its terminal: what a wrapper that only
// closes the child's pty leaves behind. TERM and INT end it as usual, by the default action.
//
//	hupproof PORT      TCP on 127.0.0.1; "ready" when it listens
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) != 2 {
		fail("usage: hupproof PORT")
	}
	signal.Ignore(syscall.SIGHUP)
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		fail(err.Error())
	}
	// After the hang-up a write to the terminal fails; it must not be what ends the app.
	fmt.Println("ready")
	page := func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "hello from hupproof\n")
	}
	fail(http.Serve(listener, http.HandlerFunc(page)).Error())
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, "hupproof:", why)
	os.Exit(1)
}
