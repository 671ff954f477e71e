"""What is right for each case of canary.py, f32 (passes, SUMS) as base85. Written by tools/record_canary.py."""

TRUTH: dict[str, str] = {
    "embed F32": (
        "riLxT*iLN1C<3NJhdDh${4r!g-3Ri)=E?fOQpVapta&8CgRGOl;vh=FRNCOcz^LoKiWwHba1<878i_tZ$~cWcq^$`+"
    ),
    "embed F16": (
        "h|4xY(5v;q0Ky2ruxFjYFx2+Jr0B9jAgDdT;Ob04pyW_NK$N_|0F8w|z;@q20Fb&rp!=0UfIy5u06-bP09r{vfcmgN"
    ),
    "embed Q4_0": (
        "X#3tk03NkHIBfU87^Aa5kN^QdP|S3|fEe;Vu&Q)GATx)**g>K|7$1N@kgs$=KqMBwKuTplAPdvKfY6=3z(z^GK$vVl"
    ),
    "embed Q4_1": (
        "AhOdypsi%UAZ=v8;O>Ayz+Dc&z^rh=fTo1LK;9O=V3DG~;0M4z_}7BKaK2W+U|=>t0PA)?z<`B6K>ggmfDkso08VYd"
    ),
    "embed Q5_0": (
        "aD=(R2;-eWK$Mxk03<O#L?hV27%O+dpeEQr0AsVh0OiEL06yqIAoerCfX6Jq5aVS)&`eoC0CifvpbN=A;6VL9U<uhj"
    ),
    "embed Q5_1": (
        "fF32mfKDC2z%n7gz?=ZVOtP^-0FRwMgg17<jOi-DxWkCRz)KxJU@VY7aN{vRfaIG$;0sc~&|1mB08oLz5F5I{uw~D{"
    ),
    "embed Q8_0": (
        "YyOzR1VXbyz4*yOe3O<zc=IE|dxDHYYV@f=H$pc;lHAw9kVgf;B*r|!7>wsY;+e$3z<6vw!VvL6m@xQ21h#!aq_Ysg"
    ),
    "embed Q2_K": (
        "nCyDNByFxi2<Ht!@ZMU%{L`mFuyENx5Y1x1nC-$q@{89&fCBA4U?Yn^tk?oU&~vcBuvCCRaCz>)0Ddw)0DF$UP$u6%"
    ),
    "embed Q3_K": (
        "GA0Vb_!i1Sz~W~>z_UNXEUL@FEsBUjr!5CUEcA0he=ZwBNY<vntipW3we%4}z~%G5=q*pds5>S>z;T|x$lD0P5YxXv"
    ),
    "embed Q4_K": (
        "`Rd=pYS&rBX6XpRzk#ts0P4@d@hGN4?HFCdtKd393c=(;3pXr74Cy~X%4`Qiz%gGx!ERYX^1s%>7kLrFJ&|0(u9uL)"
    ),
    "embed Q5_K": (
        "iSS!QO3b!H_J1qGi8l$vZZAqi3rvs1*!D8SF@+UF@DuVvc{Ec)N@{S!OaP+7cmx5$j$#DEFuB>mGz%QV=qrW75D_!O"
    ),
    "embed Q6_K": (
        "1ped1rq<-c#lmF72j)=4a_<gBRlPLC)7N{$96krcc@L9AxSDmuJ0%W7qY{im;uCvAV6&9MlZ!n<AHH3}=XXBC*Tz3W"
    ),
    "embed BF16": (
        "(HSkmgq&-_Z=9t<%LhF|;UHr|d|C3r&-VGj6cX1zo<t<U<*bvyUdu_r<*DDmfB@XS5X%+71OOJnJi0wWc)^T7@J0wg"
    ),
    "matmul F32": (
        "00m^icn4iV*2wchBrCH&<n0#2`8#dFi6x}M*gWgPBzg%#(uFQU>FqZ{m_DPx4K9yAcmBP>3>q^*bh*_*S-r`@^raoa"
    ),
    "matmul F16": (
        "xLpcE4<v=c0{#g@pnvSbdokF-b}To+72rZbd9AU*z(@1J?)_H5y}nC9{Dz`F`PkgR6t925;9upuJn#R(fFcCKS}({z"
    ),
    "matmul Q4_0": (
        "y75}RaAPaMm{_wwfm|uV04%}4wb~@XTl|DSH{uGxLWV-X{xp!lO}50qHIod%brmGQEsglUpVS6GoVO3Z+MZ57ijxvS"
    ),
    "matmul Q4_1": (
        "a!8Cqqi!j}B)SX2zwhh8$lh#17v^-r5r_Uj^S=qf-|~mRQUwk{t3<rPE_bCstP7e!GeDR@f(y~WJEOe7PZTY|BC<6>"
    ),
    "matmul Q5_0": (
        "`!}h=f*u1xeK=mhh6Dyd8paVqYAP$i0nUxUu`Pl?U6~}oP*00M;V0ZdvY8}6W~PxpnOYCOA)8Y{!oxSf$F!zDBt3Y*"
    ),
    "matmul Q5_1": (
        "qO8_JBjW$U#jlD&zlKG^@Ko1A3~sT)A%giqi0EZOcP-b!HU6N$g=>evdj+1r$<FXWSpGOdoW7w!spK|6Pfi%ZKSazy"
    ),
    "matmul Q8_0": (
        "1${xo+N6`iujO(>IKGHOmV=l>@-zFxNf)@nE>HNvB}QLDfurI=K?rrjn83k8<A0vQXyY|PHg^g_(N#dgprg1!9|{D("
    ),
    "matmul Q2_K": (
        "lB$A2lgAIjBNx#>)zF*52&db@s{bKEp$IR)oc?S-p7QfRwPZrT8F#`#H??`eyGtTKcSwf88e0FrrYT6lX_JXS^*x(G"
    ),
    "matmul Q3_K": (
        "%oNPRmTWge$FO3<2Z07dP@5RSTpgUlnZKAot5BB0E8JW{RO^etGk7V%WQGVrhC^9GVh=mQ+=FmH#TXAk`WdIeR<Osx"
    ),
    "matmul Q4_K": (
        "?*Qt<zIB+y$sQ5JkNm2{G#8*kL<{^wUSY07PkD30yZiyfqk?S15K!U6`9@MgJ_~I`&%?VzH7>$K#A!Cet;7k$NHSf)"
    ),
    "matmul Q5_K": (
        "Zd_hP#rqk>Tfj<0yuFgee7L?u;77?s%`AyTjkN&8AUprWlIrF|gIg`bFQ7-md#X!Bs+dtke%ypay3B0CiHEDi3s=U%"
    ),
    "matmul Q6_K": (
        "2L-J~kQ?p9_LSE}A_Wgd^3tM2d_jvviZeOIjevs0c=|R)NuNbS>v%Fn&YB3t{^-%d=J*;xxc#I=;1ip~Xn8P1t$nz`"
    ),
    "matmul BF16": (
        ")MH}8LBd=@vh4CgF~7z?)nXRIW4vy`@vx)9p3mySs4fXY#KtW`cm+2?%JHYb=M#uOoVC5df8jAf`<K;0^3KS?DMTH?"
    ),
    "expert_matmul F32": (
        "Y1sfn4!&PPQl?Tv(u^0w{f)-K@`q|cKpF_a=D|=wtRXQ%`%tGqw(_Pys#D`Z>>w+_NsWX-iH$J9C$$(s2Pct1>(A;z"
    ),
    "expert_matmul F16": (
        "@XC$B^&62waj2@mB1E~u;r#N#m|NFE?GNNZ-;b=n*91F4GoPWsS>n|}4jHgOvj$^9_$G(I5K+CrkSH@jjqP2(BolYO"
    ),
    "expert_matmul Q4_0": (
        "GX2FsRF;TA0evb#t^ba}JSMI_Op6e~D&1Q@#}v0f3K;;v#;YU1N`+Lv5x)z+5;(cPh&LX<jCKk@5Mlzp;7<%db(xyJ"
    ),
    "expert_matmul Q4_1": (
        "HfS`$-wr@Rn*vxu1eKRU3u79=&A}Hz6(6xbf(sWxz#(YA1_@<A2PTI<Y`^?Kd;fqy)O6;*EzA}`JB$**m~kAx=aHzt"
    ),
    "expert_matmul Q5_0": (
        "hR}Gy*^~pqW&N8!_=5w&2?-Ly<&rMJZ@e(SvU=4&M(>tBx0xEjkN#vqjbdQIr4cc}<c(ZE;{{m1`(kv!Z=MrC`hdAV"
    ),
    "expert_matmul Q5_1": (
        "fCdc1=I8A}5i_MigxGCDV5)dR`=SIxb_;<(wQU_jo@}5$SCG>|Z5-%63ed2?fL$2DnqO8xH8mMO4-cBa(wa)Z3O`^$"
    ),
    "expert_matmul Q8_0": (
        "!<;C?#3q8m%IBLv#2!w=FYorkt)>jab6?d$&df7HF>)e8J>D|H1|$$cKVZH=wAk3efS}qxQrww9)K>;U%Vu{$iaX#x"
    ),
    "expert_matmul Q2_K": (
        "7D-ydXM!z4#&D3pMRP<#j;Kb$QK$eynWj=eM1iG2nu>nG*LQ)xU$zxNm!dR40B>JD2CuZhFuonWIMltqC{{{9wh%SI"
    ),
    "expert_matmul Q3_K": (
        "+W(9}HhBU=-hG|Gi`sC(5VfyCvlui&$NrGPFlz-uy+VpYdiAeBNhQibQPc%OP%V!@+!k&?epZLUUEZ)kWayJYQn6gW"
    ),
    "expert_matmul Q4_K": (
        "ADJA)Fuo#0Se{En(s9#79{#;U$D*r5EDLeN-V+Z*$cw4MV=^#A3}miC3HTsGXlvg>UcH$?hD0C2WtNn}fFW(dyh0Dc"
    ),
    "expert_matmul Q5_K": (
        ";vCDw6WmZl>rg&LzY^+1Y?zqDy=U1%5NQO%@n1wlQSp_-PsK1qTaV>Kngvfp?E#QOjAaQxL#V35OiQgp-bdEMDwL_i"
    ),
    "expert_matmul Q6_K": (
        "v=$phN3jk=aq<YpqG&-yqKsihS^(WdD@+hXZ+VnNGJ(Lv+<t?>-4}L5mQI6265XQ1;{ygnEGrm8IBIG_IL0f&)=6bV"
    ),
    "expert_matmul BF16": (
        "c3=QQT(e$6Di=~i9y}Mrg}%hWF+grXo2LcAf{;%^U8pcZyI`k4er2XX<N)G95)CWC;a!A5dy+800}vTOJ<pIqz&7eZ"
    ),
    "rms_norm": (
        "eAZ;b0DGLjXCMkgo+evDM)wgys%8U1$cG0(dGgo6CanfSEGd`3LKmk$8tclyBy(jzL$(^hTz-kaK74+_d1ti1KsD09"
    ),
    "layer_norm": (
        "yRCb|<y}|7NdP`W4~(q8Tuov^4hb+r3{iGMejQ)JpbFGM+=&rD9oV(O%yaKQdMzcup+*)#B;6%Jii2uFt-h{6tQ*e2"
    ),
    "softmax": (
        "4qlnP5;o_(38;QP{@Izn30KNK&L7&oQ%nKAz5a;32Gn1@tifwN<n05#cO3^kOmJmAn*K7oB(5;Kjj@ouKmX*t6~0Nn"
    ),
    "add": (
        "{y$Vg_z<2!DRZ4d$1YF967!KknovAKPOwixH}(+1+<Sb&0a&!a{AP>5D+AlX%i_C0)t-|<e0BgqE>RJ|P29IXz2pGG"
    ),
    "mul": (
        "{8dpvrz;D>y(tPphGEXZ*(3D8K{yS-u%H=1#gF+xu?BrXFqSUBuuQ)|;O5IeqNE+cTvHA}EKW1Pq5`GBP*iEai`0|B"
    ),
    "swiglu": (
        "l#Db$(~yh7f$>*CHL}maB8Sz$35>u$vJMtOR2(uv4-%t50U`rGyXX!;#w)Hqb;P;A%RCQ1$Nhr8R*b#BIbz?x*JL5V"
    ),
    "causal_conv": (
        "WQTx34=kTThrwJz-C4-O524vY<hbWRYAZHEkWD5);b>dFo!?o(*}RcJThClTblDQY*xe;Rx270D#T{?Hz1a-F2a4)H"
    ),
    "rope pairs": (
        "i+MT15%R9V?sb^Ln;tDfR;40Buv}Nd^j_3KAdQzneI@@u*g?WTfK;(S+r1mXMj(j5oKx4p?^zW=RjNzBlXnh5fWkgM"
    ),
    "rope halves": (
        "!mR8;DQ8$h<CKTO2{D609Shq*F(PxqX5kw`5dXeFZ};iH;JL!U_x{U4C&r4wnZFJ|roE6r54USTNdCIOKO(!o->msS"
    ),
    "attention": (
        "M8O3@tm7fT<`uWVWd8`kB1Y}OTAqDCIA4Z9kYabgB)Wt_x=c(y&%D_{jmR9pPP+j>d$<8WD_I!8VKfxK_DX3#N@W^A"
    ),
    "rope_kv pairs": (
        "nqId-EBKv2kT4d)68GQ1A3Qw56RYz;FPP>(iXjldy>`+-*wA`Fj}ZmHyx5mO)&HG834@J4>TB=5>9oGT)(79e$Wa5p"
    ),
    "rope_kv halves": (
        "j#>Xf=#)9ZzNRU`Ok&2t9ckpj0c1KtEsh_+rBsx_J*;>@(YiXpaix4evs}VI;(UNW*FcWHUA;TN`j$e!^QQkl2H6t7"
    ),
    "expert_mul": (
        "Ody^=N=utQN|j~5o7RaxFBv<&N~rp~&&Y;8oFfvxju$OH6|TO$_9Z^OR$!1m72E~B_c}<v_c};E72E~B_c};E72E|r"
    ),
    "qkv": (
        "r$Lp*?8B?ZAze(xoBgmx^hTgX&%{W^!IPH8;Q<@Q?U6D@8Vt?E4>7z(Wx<6-^fTPV?QG4(sQL#+_f2g@saXxi>WT}+"
    ),
    "gate_up": (
        "I<C>hs1UM5N-l@QYaxh4E3U3ZBLXu-CmmJ9o2Gigz+am{@b@r8>3UT|Z=yiNVh*druK+y5=&rOv*nAPgmBuH-m?CLI"
    ),
    "matmul_add": (
        "v}^=IJJh(t=#J|{sMCl;fe&%Q6D8zAg<Rf3%mxC(J<65CvFF#pGc&xyXMB}HK>C?MnHrQrilMf_+~0IUEH}tNiaUTp"
    ),
}
