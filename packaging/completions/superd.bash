# superd in bash: made from the declarations of its command line, not by hand.
_superd() {
    local cur=${COMP_WORDS[COMP_CWORD]} at='' skip='' word i found=''
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $skip ]]; then skip=''; continue; fi
        case $word in
        --config|--grep|--lines|--name|--restart|--since|--socket|--stop|--stop-signal|--stop-timeout|--term-timeout|--timeout|-n) skip=$word; continue ;;
        --) return ;;
        esac
        case $at/$word in
        /run|/plan|/check|/demo|/rpcd|/ctl|/ctl/status|/ctl/start|/ctl/stop|/ctl/restart|/ctl/reload|/ctl/signal|/ctl/drain|/ctl/undrain|/ctl/logs|/ctl/why|/ctl/crashes|/ctl/events|/ctl/check|/ctl/plan|/ctl/graph|/ctl/doctor|/ctl/shutdown|/ctl/upgrade|/ctl/version) at=$at/$word ;;
        esac
    done
    case $at:$skip in
    :--config) found=$(compgen -f -- "$cur") ;;
    /run:--stop) found=$(compgen -W 'caddy-api nats-lame-duck children-first go-default' -- "$cur") ;;
    /run:--stop-signal) found=$(compgen -A signal -- "$cur") ;;
    /run:--stop-timeout) found=$() ;;
    /run:--name) found=$() ;;
    /run:--restart) found=$(compgen -W 'never on-failure always' -- "$cur") ;;
    /plan:--config) found=$(compgen -f -- "$cur") ;;
    /check:--config) found=$(compgen -f -- "$cur") ;;
    /check:--term-timeout) found=$() ;;
    /ctl:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl:--timeout) found=$() ;;
    /ctl/status:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/status:--timeout) found=$() ;;
    /ctl/start:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/start:--timeout) found=$() ;;
    /ctl/stop:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/stop:--timeout) found=$() ;;
    /ctl/restart:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/restart:--timeout) found=$() ;;
    /ctl/reload:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/reload:--timeout) found=$() ;;
    /ctl/signal:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/signal:--timeout) found=$() ;;
    /ctl/drain:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/drain:--timeout) found=$() ;;
    /ctl/undrain:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/undrain:--timeout) found=$() ;;
    /ctl/logs:--lines|/ctl/logs:-n) found=$() ;;
    /ctl/logs:--since) found=$() ;;
    /ctl/logs:--grep) found=$() ;;
    /ctl/logs:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/logs:--timeout) found=$() ;;
    /ctl/why:--lines|/ctl/why:-n) found=$() ;;
    /ctl/why:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/why:--timeout) found=$() ;;
    /ctl/crashes:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/crashes:--timeout) found=$() ;;
    /ctl/events:--lines|/ctl/events:-n) found=$() ;;
    /ctl/events:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/events:--timeout) found=$() ;;
    /ctl/check:--config) found=$(compgen -f -- "$cur") ;;
    /ctl/check:--term-timeout) found=$() ;;
    /ctl/check:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/check:--timeout) found=$() ;;
    /ctl/plan:--config) found=$(compgen -f -- "$cur") ;;
    /ctl/plan:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/plan:--timeout) found=$() ;;
    /ctl/graph:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/graph:--timeout) found=$() ;;
    /ctl/doctor:--config) found=$(compgen -f -- "$cur") ;;
    /ctl/doctor:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/doctor:--timeout) found=$() ;;
    /ctl/shutdown:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/shutdown:--timeout) found=$() ;;
    /ctl/upgrade:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/upgrade:--timeout) found=$() ;;
    /ctl/version:--socket) found=$(compgen -f -- "$cur") ;;
    /ctl/version:--timeout) found=$() ;;
    *:)
        case $at in
        "")
            if [[ $cur == -* ]]; then found=$(compgen -W '--config --foreground --check-state --help -h --version -V' -- "$cur")
            else found=$(compgen -W 'run plan check demo rpcd ctl' -- "$cur"); fi ;;
        "/run")
            if [[ $cur == -* ]]; then found=$(compgen -W '--stop --stop-signal --stop-timeout --name --restart --help -h' -- "$cur")
            else found=$(compgen -c -- "$cur"); fi ;;
        "/plan")
            if [[ $cur == -* ]]; then found=$(compgen -W '--config --max-stop-seconds --help -h' -- "$cur")
            else found=$(:); fi ;;
        "/check")
            if [[ $cur == -* ]]; then found=$(compgen -W '--config --term-timeout --help -h' -- "$cur")
            else found=$(:); fi ;;
        "/demo")
            if [[ $cur == -* ]]; then found=$(compgen -W '--help -h' -- "$cur")
            else found=$(:); fi ;;
        "/rpcd")
            if [[ $cur == -* ]]; then found=$(compgen -W '--help -h' -- "$cur")
            else found=$(compgen -W 'list call' -- "$cur"); fi ;;
        "/ctl")
            if [[ $cur == -* ]]; then found=$(compgen -W '--socket --json --timeout --help -h --version -V' -- "$cur")
            else found=$(compgen -W 'status start stop restart reload signal drain undrain logs why crashes events check plan graph doctor shutdown upgrade version' -- "$cur"); fi ;;
        "/ctl/status")
            if [[ $cur == -* ]]; then found=$(compgen -W '--socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/ctl/start")
            if [[ $cur == -* ]]; then found=$(compgen -W '--all --no-wait --wait --socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/ctl/stop")
            if [[ $cur == -* ]]; then found=$(compgen -W '--all --no-wait --wait --now --socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/ctl/restart")
            if [[ $cur == -* ]]; then found=$(compgen -W '--all --no-wait --wait --now --socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/ctl/reload")
            if [[ $cur == -* ]]; then found=$(compgen -W '--socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/ctl/signal")
            if [[ $cur == -* ]]; then found=$(compgen -W '--socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/ctl/drain")
            if [[ $cur == -* ]]; then found=$(compgen -W '--all --no-wait --wait --socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/ctl/undrain")
            if [[ $cur == -* ]]; then found=$(compgen -W '--all --no-wait --wait --socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/ctl/logs")
            if [[ $cur == -* ]]; then found=$(compgen -W '--follow -f --lines -n --since --grep --socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/ctl/why")
            if [[ $cur == -* ]]; then found=$(compgen -W '--all --lines -n --socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/ctl/crashes")
            if [[ $cur == -* ]]; then found=$(compgen -W '--socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/ctl/events")
            if [[ $cur == -* ]]; then found=$(compgen -W '--follow -f --lines -n --socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/ctl/check")
            if [[ $cur == -* ]]; then found=$(compgen -W '--config --term-timeout --socket --json --timeout --help -h' -- "$cur")
            else found=$(:); fi ;;
        "/ctl/plan")
            if [[ $cur == -* ]]; then found=$(compgen -W '--config --max-stop-seconds --socket --json --timeout --help -h' -- "$cur")
            else found=$(:); fi ;;
        "/ctl/graph")
            if [[ $cur == -* ]]; then found=$(compgen -W '--dot --socket --json --timeout --help -h' -- "$cur")
            else found=$(:); fi ;;
        "/ctl/doctor")
            if [[ $cur == -* ]]; then found=$(compgen -W '--config --socket --json --timeout --help -h' -- "$cur")
            else found=$(:); fi ;;
        "/ctl/shutdown")
            if [[ $cur == -* ]]; then found=$(compgen -W '--now --leave-running --no-wait --socket --json --timeout --help -h' -- "$cur")
            else found=$(:); fi ;;
        "/ctl/upgrade")
            if [[ $cur == -* ]]; then found=$(compgen -W '--if-changed --socket --json --timeout --help -h' -- "$cur")
            else found=$(:); fi ;;
        "/ctl/version")
            if [[ $cur == -* ]]; then found=$(compgen -W '--socket --json --timeout --help -h' -- "$cur")
            else found=$(:); fi ;;
        esac ;;
    esac
    local IFS=$'\n'
    COMPREPLY=($found)
}
complete -o filenames -F _superd superd
