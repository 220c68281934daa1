# The process that holds a pod's namespaces, for linux/amd64: it does nothing but reap orphans (it is process 1 where the
# containers of a pod share a process namespace) and end on SIGTERM or SIGINT. No libc, no data, one page of memory.
#
#   as -o pause.o pause_amd64.S && ld -n -s -z noseparate-code --build-id=none -o pause_amd64 pause.o
#
        .globl _start
        .text
_start:
        sub     $16, %rsp
        movq    $-1, (%rsp)             # every signal
        mov     $14, %eax               # rt_sigprocmask(SIG_BLOCK, set, NULL, 8): blocked signals reach process 1 too
        xor     %edi, %edi
        mov     %rsp, %rsi
        xor     %edx, %edx
        mov     $8, %r10d
        syscall
wait:
        mov     $128, %eax              # rt_sigtimedwait(set, NULL, NULL, 8)
        mov     %rsp, %rdi
        xor     %esi, %esi
        xor     %edx, %edx
        mov     $8, %r10d
        syscall
        cmp     $17, %eax               # SIGCHLD
        je      reap
        cmp     $15, %eax               # SIGTERM
        je      end
        cmp     $2, %eax                # SIGINT
        je      end
        jmp     wait
reap:
        mov     $61, %eax               # wait4(-1, NULL, WNOHANG, NULL), until there is none left
        mov     $-1, %rdi
        xor     %esi, %esi
        mov     $1, %edx
        xor     %r10d, %r10d
        syscall
        test    %eax, %eax
        jg      reap
        jmp     wait
end:
        mov     $60, %eax               # exit(0)
        xor     %edi, %edi
        syscall
