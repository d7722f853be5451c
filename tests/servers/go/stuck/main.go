// An application whose clean-up waits for itself: on TERM it takes a lock that it holds
// already, and hangs for good. Go's deadlock detector is no help, because the ticker lives.
//
//	stuck      "ready" when TERM would make it hang
package main

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

var cache sync.Mutex

func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		for range time.Tick(time.Hour) {
		}
	}()
	fmt.Println("ready")
	<-signals
	cache.Lock()
	flushCache()
	fmt.Println("clean-up done")
}

//go:noinline
func flushCache() {
	cache.Lock() // its caller has it
	defer cache.Unlock()
}
