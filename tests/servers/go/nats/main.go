// An application that embeds a NATS server and has a signal handler of its own, as
// ownCloud, Bacalhau and others do. The server keeps its own handler too, unless NOSIGS is set:
// that one signal reaches two handlers is the fault.
//
//	nats [PORT]      port also from NATS_PORT; NOSIGS=1 is upstream's advice (no fault)
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

func main() {
	text := os.Getenv("NATS_PORT")
	if len(os.Args) > 1 {
		text = os.Args[1]
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		fail("no port: give it as the argument or in NATS_PORT")
	}
	ns, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, NoSigs: os.Getenv("NOSIGS") == "1",
	})
	if err != nil {
		fail(err.Error())
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go ns.Start()
	if !ns.ReadyForConnections(10 * time.Second) {
		fail("not ready after 10 s")
	}
	fmt.Println("ready")
	<-signals
	ns.Shutdown()
	ns.WaitForShutdown()
	fmt.Println("app cleanup done")
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, "nats:", why)
	os.Exit(1)
}
