// An HTTP/3 server that embeds quic-go, and its client: a small application of the
// usual shape (own signal handler, Shutdown with a limit), no quic-go code changed.
//
//	quic serve PORT        UDP on 127.0.0.1; "ready" when it listens; TERM or INT: Shutdown, at most 3 s
//	quic get URL [N]       N connections one after the other, one GET each, each closed (default 1)
//	quic wait URL          the same once, by a client that tries for half a minute to be let in
//
// The server answers "/" at once and "/slow" after 700 ms, and says "slow request begun" and
// "client gone". Its certificate is made at start.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

const (
	slowAnswer    = 700 * time.Millisecond
	shutdownLimit = 3 * time.Second
	getLimit      = 5 * time.Second
	getHandshake  = 2 * time.Second
	waitLimit     = 30 * time.Second

	// Nothing tells a client that the server has seen it leave, and if the next one is there before
	// that, the server's count does not touch zero: no fault. Without the pause 3 of 20 pairs missed it.
	betweenGets = 100 * time.Millisecond
)

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 2 && args[0] == "serve":
		err = serve(args[1])
	case len(args) == 2 && args[0] == "get":
		err = get(args[1], 1)
	case len(args) == 2 && args[0] == "wait":
		err = getOnce(args[1], waitLimit, waitLimit)
	case len(args) == 3 && args[0] == "get":
		var count int
		if count, err = strconv.Atoi(args[2]); err == nil {
			err = get(args[1], count)
		}
	default:
		err = fmt.Errorf("usage: quic serve PORT | quic get URL [N] | quic wait URL")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "quic:", err)
		os.Exit(1)
	}
}

func serve(port string) error {
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	socket, err := net.ListenPacket("udp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	pages := http.NewServeMux()
	pages.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "hello from quic\n")
	})
	pages.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Println("slow request begun")
		time.Sleep(slowAnswer)
		io.WriteString(w, "hello, late\n")
	})
	server := &http3.Server{
		Handler:   pages,
		TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{certificate}}),
		ConnContext: func(of context.Context, client quic.Connection) context.Context {
			context.AfterFunc(client.Context(), func() { fmt.Println("client gone") })
			return of
		},
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	served := make(chan error, 1)
	go func() { served <- server.Serve(socket) }()
	fmt.Println("ready") // the socket is bound: what arrives from here on waits in its buffer

	select {
	case err := <-served:
		return err
	case <-signals:
	}
	limit, cancel := context.WithTimeout(context.Background(), shutdownLimit)
	defer cancel()
	err = server.Shutdown(limit)
	fmt.Println("shutdown done")
	return err
}

func get(url string, count int) error {
	for done := range count {
		if done > 0 {
			time.Sleep(betweenGets)
		}
		if err := getOnce(url, getHandshake, getLimit); err != nil {
			return err
		}
	}
	return nil
}

// getOnce opens a connection of its own and closes it: the fault is in counting connections.
func getOnce(url string, handshake, whole time.Duration) error {
	transport := &http3.RoundTripper{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // self-signed, loopback
		QUICConfig:      &quic.Config{HandshakeIdleTimeout: handshake},
	}
	defer transport.Close()
	limit, cancel := context.WithTimeout(context.Background(), whole)
	defer cancel()
	request, err := http.NewRequestWithContext(limit, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	about := x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, &about, &about, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
